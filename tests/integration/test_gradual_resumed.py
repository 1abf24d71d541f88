"""A training broken off after any step, in any stage of unfreezing, goes on as if it had not been."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from mtl.data.buckets import Budget
from mtl.data.datamodule import MultiTaskDataModule, TokenizedSplit
from mtl.data.order import OptimizerSteps, StepSampler
from mtl.data.tokens import TokenTable
from mtl.training.bad_steps import BadSteps, StepGuard
from mtl.training.combination import Combination
from mtl.training.freezing import FreezePlan
from mtl.training.learning_rates import parameter_groups, uniform_rates
from mtl.training.losses import TaskLosses
from mtl.training.module import MultiTaskModule
from mtl.training.optimization import build_adamw, build_schedule
from tests.support.networks import TASKS, network

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*in eval mode at the start of training:UserWarning",
    "ignore:.*does not have many workers:UserWarning",
    "ignore:The dirpath has changed:UserWarning",
    "ignore:You defined a `validation_step` but have no `val_dataloader`:UserWarning",
)


def training_of(folder: Path, rows: dict[str, TokenizedSplit], seen: list[int]) -> tuple[MultiTaskModule, Any]:
    """Return a module that thaws a layer at steps 2, 5 and 6, without dropout, and its data."""
    net = network(folder, dropout=0.0)
    for part in net.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    plan = FreezePlan({"layer.0": 6, "layer.1": 5, "layer.2": 2, "heads.topic": 0, "heads.mood": 0})
    groups = parameter_groups(net, uniform_rates(net.encoder.layer_names, heads=0.01, backbone=0.01), plan, 0.01)
    trained = MultiTaskModule(
        net,
        TASKS,
        TaskLosses(),
        Combination(tuple(TASKS)),
        plan,
        optimizer=partial(build_adamw, groups, betas=(0.9, 0.999), eps=1e-5),
        scheduler=partial(
            build_schedule,
            schedule="linear",
            total_steps=9,
            warmup=2,
            starts=[plan.first[group.layers[0]] for group in groups],
            stage_warmup=2,
        ),
        guard=StepGuard(Mock(spec=BadSteps), net),
    )
    sampler = StepSampler({task: each.table.lengths for task, each in rows.items()}, batch_size=2, seed=1)
    steps = OptimizerSteps(len(sampler), 2)
    data = MultiTaskDataModule(
        rows,
        {},
        sampler,
        pad_id=1,
        eval_batch=Budget(2),
        steps=steps,
        frozen=lambda step: seen.append(step),
    )
    return trained, data


def fitted(folder: Path, rows: dict[str, TokenizedSplit], where: Path, checkpoint: Path | None = None) -> Any:
    """Train for three epochs of three steps, from a checkpoint if one is given, and keep one after each step."""
    seen: list[int] = []
    trained, data = training_of(folder, rows, seen)
    saving = ModelCheckpoint(where, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    flags: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    flags |= {"limit_val_batches": 0, "default_root_dir": where, "callbacks": [saving]}
    trainer = Trainer(accelerator="cpu", max_epochs=3, accumulate_grad_batches=2, **flags)
    trainer.fit(trained, datamodule=data, ckpt_path=checkpoint)
    weights = {name: value.detach().clone() for name, value in trained.network.state_dict().items()}
    return weights, seen, trainer.optimizers[0].param_groups


def test_a_training_resumed_in_any_stage_ends_with_the_same_weights(tiny_folder: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = {
        task: TokenizedSplit(
            TokenTable(random.integers(5, 200, 4 * 10).astype(np.int64), np.arange(0, 41, 4)),
            random.integers(0, count, 10),
        )
        for task, count in TASKS.items()
    }
    whole, seen, groups = fitted(tiny_folder, rows, tmp_path / "whole")
    assert seen == [step for step in range(9) for _ in range(2 if step % 3 < 2 else 1)]
    checkpoints = sorted((tmp_path / "whole").glob("*.ckpt"), key=lambda path: int(path.stem.rpartition("=")[2]))
    assert len(checkpoints) == 9
    for step, checkpoint in enumerate(checkpoints[:-1], 1):
        again, left, rates = fitted(tiny_folder, rows, tmp_path / f"from-{step}", checkpoint)
        assert left == [each for each in seen if each >= step], step
        assert [each["lr"] for each in rates] == [each["lr"] for each in groups]
        for name, value in whole.items():
            assert torch.equal(again[name], value), f"{step}: {name}"
