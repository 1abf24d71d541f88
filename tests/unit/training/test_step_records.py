"""A training step: random numbers that come again, and what the loggers get."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mtl.training.checkpoints import random_state, restore_random_state
from mtl.training.step_records import Randomness, StepLog

if TYPE_CHECKING:
    import pytest


def test_the_same_random_numbers_come_again_and_leave_what_follows_alone() -> None:
    torch.manual_seed(3)
    randomness = Randomness(torch.device("cpu"))
    first = torch.rand(4)
    with randomness.again():
        again = torch.rand(4)
    behind = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(first, again)
    assert torch.equal(torch.rand(8)[4:], behind)


def test_the_random_numbers_of_an_apple_gpu_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that counts what was drawn stands in for its generator."""
    drawn = [torch.tensor([5], dtype=torch.uint8)]
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: drawn[0].clone())
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: drawn.__setitem__(0, state.clone()))
    randomness = Randomness(torch.device("mps"))
    drawn[0] += 1
    with randomness.again():
        assert drawn[0].item() == 5
        drawn[0] += 1
    assert drawn[0].item() == 6
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    state = random_state()
    drawn[0] += 3
    restore_random_state(state)
    assert drawn[0].item() == 6


def test_figures_of_accumulated_batches_are_means_over_the_batches_that_have_them() -> None:
    log = StepLog()
    log.add(0, {"train/loss": torch.tensor(7.0)})
    log.add(1, {"train/loss": torch.tensor(1.0), "train/mood/loss": torch.tensor(1.0)})
    log.add(1, {"train/loss": torch.tensor(2.0)})
    log.add(1, {"train/loss": torch.tensor(6.0), "train/mood/loss": torch.tensor(3.0)})
    assert log.step == 1
    assert log.figures == {"train/loss": torch.tensor(3.0), "train/mood/loss": torch.tensor(2.0)}
