"""What a run has settled before its first step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch

from mtl import build
from mtl.config import Config
from mtl.data.tasks import TaskData
from mtl.encoding import Encoding
from mtl.inputs import Inputs
from mtl.training.freezing import FreezePlan
from mtl.training.learning_rates import ParameterGroup


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything that a run has settled before its first step."""

    config: Config
    folder: Path
    tasks: dict[str, TaskData]
    start: build.Start
    plan: FreezePlan
    groups: list[ParameterGroup]
    device: torch.device
    precision: str
    encoding: Encoding


def settle(config: Config, folder: Path, inputs: Inputs) -> Setting:
    """Build what a run starts from: network, freeze plan, parameter groups, device, precision.

    Raises:
        MtlError: A flag, a number of layers or the saved model to start from does not fit.
    """
    pl.seed_everything(config.seed, verbose=False)
    device = build.device(config.trainer)
    start = build.start(config, inputs.tasks, inputs.weights)
    start.network.to(device)
    if device.type == "cpu":
        start.network.encoder.set_attention("eager")  # trains faster there, see mtl.model.plain_attention
    plan = build.freeze_plan(config, start.network)
    precision = build.precision(config.trainer, device)
    build.trainer(config, folder, precision, callbacks=[], validated=True)  # refuses flags before anything is computed
    return Setting(
        config=config,
        folder=folder,
        tasks=inputs.tasks,
        start=start,
        plan=plan,
        groups=build.groups(config, start.network, plan),
        device=device,
        precision=precision,
        encoding=Encoding(
            pad_id=start.tokenizer.pad_token_id or 0,
            batch_size=config.data.eval_batch_size,
            max_tokens=2 * config.data.max_tokens,
            precision="bf16" if precision.startswith("bf16") else "fp32",
            progress="encoding" if config.callbacks.progress else None,
        ),
    )
