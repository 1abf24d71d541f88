"""What a run depends on, as names and fingerprints: a run is resumed only with the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl.activations import tensors_fingerprint
from mtl.base.errors import Problem
from mtl.base.files import content_checksum
from mtl.base.schema import shown
from mtl.training.checkpoint_model import versions
from mtl.training.inputs import data_files

if TYPE_CHECKING:
    from mtl.training.plan import Setting
    from mtl.training.scores import Splits


def identity(setting: Setting, splits: Splits) -> dict[str, Any]:
    """Return what a run depends on, plain values.

    Args:
        setting: What the run has settled, its network before the first step.
        splits: The token ids and labels of each task and split.

    Returns:
        ``config``: the configuration; ``files``: the SHA-256 of each data file by its key and path; ``rows``: that of
        the token ids and labels of each task and split; ``weights``: that of all weights before the first step;
        ``versions``: of the packages that compute.
    """
    rows = {
        f"{task}, {split}": tensors_fingerprint(
            {"ids": each.table.ids, "offsets": each.table.offsets, "labels": each.labels}
        )
        for task, found in splits.items()
        for split, each in found.items()
    }
    files = {f"{key}={path}": content_checksum(path) for key, path in data_files(setting.config)}
    return {
        "config": asdict(setting.config),
        "files": files,
        "rows": rows,
        "weights": tensors_fingerprint(setting.start.network.state_dict()),
        "versions": versions(),
    }


def changes(then: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> list[Problem]:
    """Return what has changed between the start of a run and its resumption, but for versions and more epochs.

    Args:
        then: The identity in a resume point.
        now: That of the run as it would go on.
        folder: The run folder.
    """
    problems = [*_config_changes(then["config"], now["config"], folder)]
    again = "put back what the run began with, or start a new run"
    problems += [
        Problem(key, "another content than when the run began", "the same file", again)
        for key, checksum in then["files"].items()
        if now["files"].get(key, checksum) != checksum
    ]
    if not problems:
        problems += [
            Problem(f"rows of {key}", "other token ids or labels than when the run began", "the same rows", again)
            for key, checksum in then["rows"].items()
            if now["rows"].get(key) != checksum
        ]
    if not problems and then["weights"] != now["weights"]:
        found = "other weights, before the first step, than when the run began"
        problems.append(Problem("backbone or model.init_from", found, "the same weights", again))
    return problems


def version_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return in words which packages have changed; empty if none has."""
    before, after = then["versions"], now["versions"]
    return ", ".join(
        f"{name} {before.get(name)} is now {after[name]}" for name in after if before.get(name) != after[name]
    )


def _config_changes(then: Any, now: Any, folder: Path, key: str = "") -> Iterator[Problem]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*then, *now]):
            yield from _config_changes(then.get(name), now.get(name), folder, f"{key}.{name}".lstrip("."))
    elif key == "trainer.max_epochs" and isinstance(then, int) and isinstance(now, int) and now > then:
        return  # more epochs continue what was begun
    elif then != now:
        repair = "put it back, or start a new run with it"
        yield Problem(f"{folder / 'config.yaml'}: {key}", shown(now), f"{shown(then)}, as when the run began", repair)
