"""The plan of a run: all that is decided before its first step, and the identity that resuming requires to be equal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch

from mtl.activations import tensors_fingerprint
from mtl.activations.encoding import Encoding
from mtl.base.errors import Problem
from mtl.base.files import content_checksum
from mtl.base.schema import shown
from mtl.config.fields import Config
from mtl.data.tasks import TaskData
from mtl.training import build, build_freezing, build_hardware, build_losses
from mtl.training.build_losses import class_counts, slots
from mtl.training.checkpoint_schema import versions
from mtl.training.combination import Combination
from mtl.training.freezing import FreezePlan
from mtl.training.inputs import Inputs, data_files, dataset_rows
from mtl.training.learning_rates import ParameterGroup
from mtl.training.parallel import ALONE, Place

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mtl.data.datamodule import Splits


def identity(setting: Setting, splits: Splits) -> dict[str, Any]:
    """Return what a run depends on, plain values.

    Args:
        setting: What the run has settled, its network before the first step.
        splits: The token ids and labels of each task and split.

    Returns:
        ``config``: the configuration; ``files``: the SHA-256 of each data file by its key and path, and of the rows of
        each split of a data set; ``rows``: that of the token ids and labels of each task and split; ``weights``: that
        of all weights before the first step; ``versions``: of the packages that compute.
    """
    rows = {
        f"{task}, {split}": tensors_fingerprint(
            {"ids": each.table.ids, "offsets": each.table.offsets, "labels": each.labels}
        )
        for task, found in splits.items()
        for split, each in found.items()
    }
    files = {f"{key}={path}": content_checksum(path) for key, path in data_files(setting.config)}
    files |= dataset_rows(setting.config, setting.tasks)
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


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything that a run has settled before its first step.

    Attributes:
        config: The configuration.
        folder: The run folder.
        tasks: The data of each task.
        start: The network that training starts from.
        plan: What learns when, in the unit of the configuration; training goes by `FreezePlan.by_steps`.
        groups: The parameter groups, last that of what a combination of losses learns.
        device: Where it runs.
        precision: Lightning's precision flag, for training; that of the encoder where it only encodes is in `encoding`.
        encoding: How sentences go through the encoder where nothing is trained.
        combination: How the tasks' losses become one.
        slots: For each task the row in each slot of a pass over its training rows, int64; see `mtl.data.splits`.
        place: Which of several processes this is.
    """

    config: Config
    folder: Path
    tasks: dict[str, TaskData]
    start: build.Start
    plan: FreezePlan
    groups: list[ParameterGroup]
    device: torch.device
    precision: str
    encoding: Encoding
    slots: dict[str, NDArray[np.int64]]
    combination: Combination
    place: Place = ALONE

    def learns(self, task: str) -> bool:
        """Whether what predicts the task is trained: its head, one that it borrows, or the encoder."""
        layers = self.start.network.head_layers(task)
        return not self.plan.encoder_is_frozen or any(layer in self.plan.first for layer in layers)

    @property
    def class_counts(self) -> dict[str, NDArray[np.int64]]:
        """How often rows of each class come in a pass over each task's training rows, int64, ``(C,)``."""
        return {name: class_counts(task, self.slots[name]) for name, task in self.tasks.items()}


def settle(config: Config, folder: Path, inputs: Inputs, rank: int = 0) -> Setting:
    """Build what a run starts from: network, freeze plan, parameter groups, device, precision.

    Args:
        config: The configuration.
        folder: The run folder.
        inputs: What the run reads.
        rank: Which of several processes this is.

    Raises:
        MtlError: A flag, a number of layers or the saved model to start from does not fit.
    """
    build_losses.check_installed(config)
    pl.seed_everything(config.seed, verbose=False)
    place = Place(rank, build_hardware.processes(config.trainer))
    device = build_hardware.device(config.trainer, rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    start = build.start(config, inputs.tasks, inputs.weights)
    build_freezing.adapters(config, start.network)
    start.network.to(device)
    if device.type == "cpu":
        start.network.encoder.set_attention("eager")  # for families that mtl.model.cpu.packed does not take
    plan = build_freezing.freeze_plan(config, start.network, start.kept)
    precision = build_hardware.precision(config.trainer, device, heads_alone=plan.encoder_is_frozen)
    of_encoder = build_hardware.precision(config.trainer, device)
    build.trainer(
        config, folder, precision, callbacks=[], validated=True, place=place
    )  # refuses flags before anything is computed
    setting = Setting(
        config=config,
        folder=folder,
        tasks=inputs.tasks,
        start=start,
        plan=plan,
        slots=slots(config, inputs.tasks),
        groups=build_freezing.groups(config, start.network, plan),
        device=device,
        precision=precision,
        encoding=Encoding(
            pad_id=start.tokenizer.pad_token_id or 0,
            batch_size=config.data.eval_batch_size,
            max_tokens=2 * config.data.max_tokens,
            precision="bf16" if of_encoder.startswith("bf16") else "fp32",
            progress="encoding" if config.callbacks.progress else None,
        ),
        combination=Combination(()),
        place=place,
    )
    return _with_combination(setting)


def _with_combination(setting: Setting) -> Setting:
    """Add how the losses of the tasks that learn become one, and the group of what it learns itself."""
    how = build_losses.combination(setting.config, [task for task in setting.tasks if setting.learns(task)])
    own = build_losses.combination_groups(setting.config, how) if setting.groups else []
    return replace(setting, combination=how, groups=[*setting.groups, *own])
