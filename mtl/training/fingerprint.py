"""The fingerprint of a run: what a resumed run must have in common with the one that was started."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mtl.activations import tensors_fingerprint
from mtl.base.errors import Problem
from mtl.base.files import content_checksum
from mtl.base.schema import shown
from mtl.data.datamodule import Splits
from mtl.training.checkpoints import versions
from mtl.training.inputs import data_files, dataset_rows
from mtl.training.plan import RunPlan
from mtl.training.ranks import processes_of


def fingerprint(plan: RunPlan, splits: Splits) -> dict[str, Any]:
    """Return what a run depends on, as plain values.

    ``files`` has the SHA-256 of each data file by its key and path, and of the rows of each split of a data set;
    ``rows`` that of the token ids and labels of each task and split; ``weights`` that of all weights before the first
    step; ``versions`` those of the packages that compute.
    """
    rows = {
        f"{task}, {split}": tensors_fingerprint(
            {"ids": rows.table.ids, "offsets": rows.table.offsets, "labels": rows.labels}
        )
        for task, parts in splits.items()
        for split, rows in parts.items()
    }
    files = {f"{key}={path}": content_checksum(path) for key, path in data_files(plan.config)}
    files |= dataset_rows(plan.config, plan.tasks)
    return {
        "config": asdict(plan.config),
        "files": files,
        "rows": rows,
        "weights": tensors_fingerprint(plan.start.network.state_dict()),
        "versions": versions(),
    }


def changes(then: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> list[Problem]:
    """Return what has changed since a run was started, apart from versions, processes, and more epochs."""
    problems = [*_config_changes(_over_processes(then["config"]), _over_processes(now["config"]), folder)]
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
    """Return which packages have changed, as text; empty if none has."""
    before, after = then["versions"], now["versions"]
    return ", ".join(
        f"{name} {before.get(name)} is now {after[name]}" for name in after if before.get(name) != after[name]
    )


def _over_processes(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a configuration with the rows and tokens of all processes, whose number does not matter then."""
    data, trainer = config["data"], config["trainer"]
    number = processes_of(trainer)
    if number is None:
        return config
    totals = {key: data[key] * number for key in ("batch_size", "max_tokens")}
    flags = {key: value for key, value in trainer.items() if key not in ("devices", "num_nodes", "strategy")}
    return {**config, "data": {**data, **totals}, "trainer": flags}


def _config_changes(then: Any, now: Any, folder: Path, key: str = "") -> Iterator[Problem]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*then, *now]):
            yield from _config_changes(then.get(name), now.get(name), folder, f"{key}.{name}".lstrip("."))
    elif key == "trainer.max_epochs" and isinstance(then, int) and isinstance(now, int) and now > then:
        return  # more epochs continue what was begun
    elif then != now:
        repair = "put it back, or start a new run with it"
        yield Problem(f"{folder / 'config.yaml'}: {key}", shown(now), f"{shown(then)}, as when the run began", repair)
