"""The plan of a run: everything that is decided before its first step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import numpy as np
import torch

from mtl.activations.encoding import Encoding
from mtl.config.fields import Config
from mtl.data.splits import oversampled_rows
from mtl.data.tasks import TaskData
from mtl.training.build import Start, add_lora, make_combination, make_freeze_plan, make_groups, make_start
from mtl.training.combination import Combination
from mtl.training.freezing import FreezePlan
from mtl.training.hardware import choose_device, choose_precision
from mtl.training.inputs import Inputs
from mtl.training.learning_rates import ParameterGroup
from mtl.training.ranks import ALONE, Process

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Everything that a run decides before its first step."""

    config: Config
    folder: Path
    tasks: dict[str, TaskData]
    start: Start
    freezing: FreezePlan  # in the unit of the configuration; see `FreezePlan.by_steps`
    trained: frozenset[str]  # the tasks whose predictions depend on anything that is trained, a head or the encoder
    groups: list[ParameterGroup]  # last that of what a combination of losses learns
    device: torch.device  # of this process
    precision: str  # Lightning's flag for training; `encoding` has that of an encoder that is not trained
    encoding: Encoding  # outside training
    slots: dict[str, NDArray[np.int64]]  # the row in each slot of a pass over a task's training rows; `mtl.data.splits`
    combination: Combination
    process: Process

    @property
    def class_counts(self) -> dict[str, NDArray[np.int64]]:
        """How often rows of each class occur in a pass over each task's training rows, int64, ``(C,)``."""
        return {
            name: np.bincount(task.labels.ids(task.train)[self.slots[name]], minlength=len(task.labels))
            for name, task in self.tasks.items()
        }


def make_plan(config: Config, folder: Path, inputs: Inputs, process: Process = ALONE) -> RunPlan:
    """Make the plan of a run, and its network.

    All random numbers of the run follow from its seed, which is set here, before the first of them: new heads.
    """
    pl.seed_everything(config.seed, verbose=False)
    device = choose_device(config.trainer, process.local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    start = make_start(config, inputs.tasks, inputs.weights)
    add_lora(config, start.network)
    start.network.to(device)
    if device.type == "cpu":
        start.network.encoder.use_plain_attention()  # for families that mtl.model.cpu.packed does not take
    freezing = make_freeze_plan(config, start)
    trained = frozenset(
        task
        for task in start.heads
        if not freezing.encoder_is_frozen or any(layer in freezing.first for layer in start.network.head_layers(task))
    )
    combination = make_combination(config, [task for task in inputs.tasks if task in trained])
    encoder_precision = choose_precision(config.trainer, device)
    return RunPlan(
        config=config,
        folder=folder,
        tasks=inputs.tasks,
        start=start,
        freezing=freezing,
        trained=trained,
        groups=make_groups(config, start.network, freezing, combination),
        device=device,
        precision=choose_precision(config.trainer, device, heads_alone=freezing.encoder_is_frozen),
        encoding=Encoding(
            pad_id=start.tokenizer.pad_token_id or 0,
            batch_size=config.data.eval_batch_size,
            max_tokens=2 * config.data.max_tokens,
            precision="bf16" if encoder_precision.startswith("bf16") else "fp32",
            progress="encoding" if config.callbacks.progress else None,
        ),
        slots={
            name: oversampled_rows(
                task.labels.ids(task.train), config.data.tasks[name].oversample, task=name, seed=config.seed
            )
            for name, task in inputs.tasks.items()
        },
        combination=combination,
        process=process,
    )
