"""Combinations of losses, against their formulas worked out by hand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch.optim import Adam

from mtl.training.combination import Combination, DynamicWeightAverage, Famo, Uncertainty, Weighted
from tests.support.modules import Waits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

TASKS = ("mood", "topic")


def losses(*values: float, tasks: Sequence[str] = TASKS) -> dict[str, Tensor]:
    return {task: torch.tensor(value, requires_grad=True) for task, value in zip(tasks, values, strict=True)}


def weights(how: Combination, *values: float) -> list[float]:
    return [float(each) for each in how.weights(losses(*values)).values()]


def gradients(how: Combination, given: dict[str, Tensor]) -> list[float]:
    """Return the gradient of the combined loss for each task's loss."""
    torch.autograd.backward(how(given))
    return [float(each.grad) for each in given.values() if each.grad is not None]


def test_the_sum_is_the_sum_and_has_no_state() -> None:
    how = Combination(TASKS)
    assert how(losses(2.0, 5.0)).item() == 7.0
    assert how(losses(5.0, tasks=["topic"])).item() == 5.0
    assert how.state_dict() == {}


def test_fixed_weights_are_factors_and_1_where_none_is_given() -> None:
    how = Weighted(("mood", "topic", "other"), {"topic": 0.1, "other": 3.0})
    assert how(losses(2.0, 5.0, 1.0, tasks=how.tasks)).item() == pytest.approx(5.5)
    assert how(losses(5.0, tasks=["topic"])).item() == pytest.approx(0.5)


def test_uncertainty_is_the_formula_of_kendall() -> None:
    how = Uncertainty(TASKS, rate=0.01)
    assert how(losses(2.0, 5.0)).item() == 7.0
    with torch.no_grad():
        how.log_variances["mood_"].fill_(math.log(4))  # sigma = 2
        how.log_variances["topic_"].fill_(math.log(0.25))  # sigma = 1/2
    assert how(losses(2.0, 5.0)).item() == pytest.approx(2 / 4 + math.log(2) + 5 * 4 + math.log(0.5))
    assert gradients(how, losses(2.0, 5.0)) == pytest.approx([0.25, 4.0])


def test_uncertainty_learns_the_variance_that_its_formula_wants() -> None:
    """The derivative of ``exp(-s) L + s / 2`` is 0 at ``s = log(2 L)``."""
    how = Uncertainty(TASKS, rate=0.01)
    optimizer = Adam(how.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        torch.autograd.backward(how(losses(0.2, 3.0)))
        optimizer.step()
    assert [each.item() for each in how.parameters()] == pytest.approx([math.log(0.4), math.log(6.0)], abs=1e-3)


def test_a_step_without_rows_of_a_task_leaves_its_variance_alone() -> None:
    how = Uncertainty(TASKS, rate=0.01)
    torch.autograd.backward(how(losses(5.0, tasks=["topic"])))
    assert how.log_variances["mood_"].grad is None
    assert how.log_variances["topic_"].grad == pytest.approx(0.5 - 5.0)


def test_dwa_weighs_by_how_slowly_losses_fall() -> None:
    how = DynamicWeightAverage(TASKS, temperature=2.0, window=2)
    for first, second in ((4.0, 1.0), (2.0, 1.0), (2.0, 0.6), (1.0, 0.4)):
        assert weights(how, 1.0, 1.0) == [1.0, 1.0]
        how.observe(losses(first, second))
    ratios = [1.5 / 3.0, 0.5 / 1.0]  # means of the second window over those of the first
    parts = [math.exp(ratio / 2) for ratio in ratios]
    assert weights(how, 9.0, 9.0) == pytest.approx([2 * part / sum(parts) for part in parts])
    how.observe(losses(1.5, 0.25))
    how.observe(losses(1.5, 0.25))
    parts = [math.exp(1.5 / 1.5 / 2), math.exp(0.25 / 0.5 / 2)]
    assert weights(how, 9.0, 9.0) == pytest.approx([2 * part / sum(parts) for part in parts])


def test_dwa_takes_an_epoch_for_its_window_unless_one_was_chosen() -> None:
    for window, over in ((None, 3), (2, 2)):
        how = DynamicWeightAverage(TASKS, temperature=1.0, window=window)
        how.set_epoch(3)
        for _ in range(over):
            assert how.get_extra_state()[1] == 0
            how.observe(losses(1.0, 1.0))
        assert how.get_extra_state().tolist() == [0, 1]


def test_dwa_gives_a_task_that_a_window_did_not_see_the_ratio_of_1() -> None:
    how = DynamicWeightAverage(TASKS, temperature=1.0, window=1)
    how.observe(losses(8.0, tasks=["mood"]))
    how.observe(losses(4.0, tasks=["mood"]))
    parts = [math.exp(0.5), math.exp(1.0)]
    assert weights(how, 1.0, 1.0) == pytest.approx([2 * part / sum(parts) for part in parts])


def famo_by_hand(steps: Sequence[tuple[list[float], list[float]]], rate: float, decay: float) -> list[list[float]]:
    """Return the logits after each step, by algorithm 1 with autograd's Jacobian and PyTorch's Adam."""
    logits = torch.zeros(2, requires_grad=True)
    optimizer = Adam([logits], lr=rate, weight_decay=decay)
    found = []
    for before, after in steps:
        fallen = torch.tensor(before).log() - torch.tensor(after).log()
        logits.grad = torch.autograd.grad(logits.softmax(0), logits, fallen)[0]
        optimizer.step()
        found.append(logits.tolist())
    return found


STEPS = [([2.0, 0.5], [1.5, 0.5]), ([1.4, 0.6], [1.2, 0.3]), ([1.1, 0.4], [1.2, 0.35]), ([0.9, 0.4], [0.5, 0.39])]


def test_famo_is_the_algorithm_of_the_paper() -> None:
    how = Famo(TASKS, rate=0.025, decay=0.001)
    expected = famo_by_hand(STEPS, 0.025, 0.001)
    for (before, after), logits in zip(STEPS, expected, strict=True):
        shares = how.logits.softmax(0).tolist()
        constant = 1 / sum(share / loss for share, loss in zip(shares, before, strict=True))
        by_hand = [constant * share / loss for share, loss in zip(shares, before, strict=True)]
        assert gradients(how, losses(*before)) == pytest.approx(by_hand)  # of c * sum(z log L)
        how.update(losses(*before), losses(*after))
        assert how.logits.tolist() == pytest.approx(logits, abs=1e-6)
    assert expected[0][1] > 0 > expected[0][0]  # what fell less gets more weight


def test_famo_agrees_with_torchjd() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    ours, theirs = Famo(TASKS, rate=0.1, decay=0.01), scalarization.FAMO(2, lr=0.1, weight_decay=0.01)
    for before, after in STEPS:
        values = torch.tensor(before, requires_grad=True)
        torch.autograd.backward(theirs(values))
        assert values.grad is not None
        assert gradients(ours, losses(*before)) == pytest.approx(values.grad.tolist(), rel=1e-5)
        theirs.update(torch.tensor(after))
        ours.update(losses(*before), losses(*after))


def test_famo_learns_nothing_from_a_step_of_one_task() -> None:
    how = Famo(TASKS, rate=0.025, decay=0.001)
    assert [float(each) for each in how.weights(losses(3.0, tasks=["topic"])).values()] == pytest.approx([1.0])
    how.update(losses(3.0, tasks=["topic"]), losses(1.0, tasks=["topic"]))
    assert how.logits.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_a_skipped_step_lost_is_not_remembered(bad: float) -> None:
    how = DynamicWeightAverage(TASKS, temperature=1.0, window=2)
    for first in (bad, 4.0, 1.0, 1.0):
        how.observe(losses(first, 2.0))
    parts = [math.exp(1.0 / 4.0), math.exp(1.0)]
    assert weights(how, 1.0, 1.0) == pytest.approx([2 * part / sum(parts) for part in parts])
    famo = Famo(TASKS, rate=0.025, decay=0.001)
    famo.update(losses(1.0, 2.0), losses(bad, 1.0))
    assert famo.logits.tolist() == [0.0, 0.0]
    famo.update(losses(1.0, 2.0), losses(1.0, 1.0))
    assert all(map(math.isfinite, famo.logits.tolist()))


def test_famo_does_not_wait_for_the_device() -> None:
    famo = Famo(TASKS, rate=0.025, decay=0.001)
    with Waits() as waits:
        famo(losses(1.0, 2.0))
        famo.update(losses(1.0, 2.0), losses(0.5, 1.5))
    assert waits.count == 0
    assert famo.logits.any()


def test_the_state_of_every_combination_is_made_of_tensors() -> None:
    """As a checkpoint is checked to be; a copy that takes it stands where the first one does."""
    first, second = (DynamicWeightAverage(TASKS, temperature=1.0, window=2) for _ in range(2))
    for loss in (4.0, 3.0, 2.0, 2.0, 1.0):
        first.observe(losses(loss, 2.0))
    state = first.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    second.load_state_dict(state)
    for how in (first, second):
        how.observe(losses(0.5, 2.0))
    assert first.weights(losses(1.0, 1.0)) == second.weights(losses(1.0, 1.0))
    assert first.state_dict()["_extra_state"].tolist() == second.state_dict()["_extra_state"].tolist() == [0, 3]
