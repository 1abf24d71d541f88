"""The number of steps of a training, for every flag that shortens it."""

from __future__ import annotations

from typing import Any

import pytest

from mtl.config.trainer import TrainerConfig
from mtl.data.order import StepSampler
from mtl.training.description import smaller_batches
from mtl.training.trainer import optimizer_steps, total_steps
from tests.support.configs import compose_config


@pytest.mark.parametrize(
    ("flags", "batches", "expected"),
    [
        ({"max_epochs": 3}, 16, 48),
        ({"max_epochs": 3, "max_steps": 20}, 16, 20),
        ({"max_epochs": 1, "max_steps": 20}, 16, 16),
        ({"max_steps": 20}, 16, 20),
        ({"max_epochs": 3, "accumulate_grad_batches": 4}, 16, 12),
        ({"max_epochs": 3, "accumulate_grad_batches": 5}, 16, 12),  # the last step of an epoch takes what is left
        ({"max_epochs": 2, "accumulate_grad_batches": 99}, 16, 2),
        ({"max_epochs": 3, "accumulate_grad_batches": 4, "max_steps": 7}, 16, 7),
        ({"max_epochs": 3, "limit_train_batches": 5}, 16, 15),
        ({"max_epochs": 3, "limit_train_batches": 99}, 16, 48),
        ({"max_epochs": 3, "limit_train_batches": 0.5}, 16, 24),
        ({"max_epochs": 3, "limit_train_batches": 0.49}, 16, 21),
        ({"max_epochs": 3, "limit_train_batches": 1.0}, 16, 48),
        ({"max_epochs": 3, "limit_train_batches": 1}, 16, 3),
        ({"max_epochs": 3, "limit_train_batches": 0.5, "accumulate_grad_batches": 3}, 16, 9),
        ({"max_epochs": 3, "fast_dev_run": True}, 16, 1),
        ({"max_epochs": 3, "fast_dev_run": 5}, 16, 5),
        ({"max_epochs": 3, "fast_dev_run": 99}, 16, 16),
        ({"max_epochs": 3, "fast_dev_run": 6, "accumulate_grad_batches": 4}, 16, 2),
        ({"max_epochs": 3, "fast_dev_run": False}, 16, 48),
        ({"max_epochs": 3, "fast_dev_run": 2, "limit_train_batches": 9}, 16, 2),
        ({"max_epochs": 3, "min_epochs": 2, "min_steps": 4}, 16, 48),
    ],
)
def test_total_steps(flags: dict[str, Any], batches: int, expected: int) -> None:
    trainer = TrainerConfig(**flags)
    assert total_steps(trainer, optimizer_steps(trainer, batches).per_epoch) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({}, 16), ({"limit_train_batches": 3}, 3), ({"limit_train_batches": 0.3}, 4), ({"fast_dev_run": True}, 1)],
)
def test_epoch_batches(flags: dict[str, Any], expected: int) -> None:
    assert optimizer_steps(TrainerConfig(**flags), 16).batches == expected


def test_batches_that_max_tokens_keeps_small_are_named() -> None:
    lengths = {"reviews": [32] * 30 + [8] * 10, "short": [16] * 5}
    data = compose_config(["backbone=tiny", "data.batch_size=512", "data.max_tokens=8192"]).data
    sampler = StepSampler(lengths, batch_size=data.batch_size, max_tokens=data.max_tokens)
    assert list(smaller_batches(data, sampler)) == [
        "data.max_tokens=8192 makes batches of reviews smaller than data.batch_size=512: 75.0% of its rows are longer "
        "than 16 tokens. Full batches need data.max_tokens=16384"
    ]
    assert StepSampler(lengths, batch_size=512, max_tokens=16384).too_long == {}
    assert StepSampler(lengths, batch_size=512).too_long == {}
