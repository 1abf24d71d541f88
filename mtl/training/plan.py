"""The plan of a run: everything that is decided before its first step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import lightning.pytorch as pl
import numpy as np
import torch

from mtl.activations.encoding import Encoding
from mtl.config.fields import Config
from mtl.data.batch import Boundary
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
    """Everything that a run decides before its first step.

    Attributes:
        config: The configuration.
        folder: The run folder.
        tasks: The data of each task.
        start: The network that training starts from.
        freezing: When each layer is trained, in the unit of the configuration; see `FreezePlan.by_steps`.
        groups: The parameter groups, last that of what a combination of losses learns.
        device: The device of this process.
        precision: Lightning's precision flag for training; `encoding` has that of an encoder that is not trained.
        encoding: How sentences are encoded outside training.
        slots: For each task the row in each slot of a pass over its training rows, int64; see `mtl.data.splits`.
        combination: How the tasks' losses are combined.
        process: This process.
    """

    config: Config
    folder: Path
    tasks: dict[str, TaskData]
    start: Start
    freezing: FreezePlan
    groups: list[ParameterGroup]
    device: torch.device
    precision: str
    encoding: Encoding
    slots: dict[str, NDArray[np.int64]]
    combination: Combination
    process: Process = ALONE

    def trains(self, task: str) -> bool:
        """Whether anything that the task's predictions depend on is trained: its heads or the encoder."""
        return _trains(self.start, self.freezing, task)

    @property
    def class_counts(self) -> dict[str, NDArray[np.int64]]:
        """How often rows of each class occur in a pass over each task's training rows, int64, ``(C,)``."""
        return {
            name: np.bincount(task.labels.ids(task.train)[self.slots[name]], minlength=len(task.labels))
            for name, task in self.tasks.items()
        }


def make_plan(config: Config, folder: Path, inputs: Inputs, process: Process = ALONE) -> RunPlan:
    """Make the plan of a run: network, freeze plan, parameter groups, device, precision.

    All random numbers of the run follow from its seed, which is set here, before the first of them: new heads.

    Raises:
        MtlError: A flag, a number of layers or the saved model to start from does not fit.
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
    combination = make_combination(config, [task for task in inputs.tasks if _trains(start, freezing, task)])
    encoder_precision = choose_precision(config.trainer, device)
    return RunPlan(
        config=config,
        folder=folder,
        tasks=inputs.tasks,
        start=start,
        freezing=freezing,
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


def _trains(start: Start, freezing: FreezePlan, task: str) -> bool:
    layers = start.network.head_layers(task)
    return not freezing.encoder_is_frozen or any(layer in freezing.first for layer in layers)


@dataclass(frozen=True, slots=True)
class ActivationPhase:
    """Steps of a training in which the same layers of the encoder are frozen from the bottom.

    Attributes:
        first: The first optimizer step, from 0.
        boundary: How far the encoder is frozen; None if no layer is.
        layer: The highest frozen layer.
        source: Where training takes their activations from: ``computed`` in every step by the frozen layers,
            ``memory`` once they have been computed, or the ``cache`` on disk, if that has room for them.
    """

    first: int
    boundary: Boundary | None
    layer: str
    source: Literal["computed", "memory", "cache"]

    def __str__(self) -> str:
        """Describe the phase for a reader, who counts steps from 1."""
        texts = {
            "computed": "computed in every step",
            "memory": "computed once and kept in memory",
            "cache": "computed once and read from the cache on disk",
        }
        what = f"activations up to {self.layer}"
        if self.boundary is None:
            what = "all activations"
        elif self.boundary == "embedding":
            what = "embeddings of the frozen encoder"
        return f"from step {self.first + 1:,}: {what}, {texts[self.source]}"


def plan_activations(plan: RunPlan, steps_per_epoch: int, total_steps: int) -> list[ActivationPhase]:
    """Return how training obtains the activations of frozen layers, in the order of its optimizer steps."""
    encoder, freezing = plan.start.network.encoder, plan.freezing.by_steps(steps_per_epoch)
    cached = plan.config.cache.activations
    phases: list[ActivationPhase] = []
    for first in sorted({0, *freezing.first.values()}):
        boundary = freezing.boundary(first, encoder.layer_names)
        if first >= total_steps or (phases and phases[-1].boundary == boundary):
            continue
        layer = ""
        source: Literal["computed", "memory", "cache"] = "computed"
        if boundary == "embedding":
            source = "cache" if cached else "memory"
        elif boundary is not None:
            layer = encoder.layer_names[boundary]
            source = "cache" if cached and encoder.supports_split else "computed"
        phases.append(ActivationPhase(first, boundary, layer, source))
    return phases
