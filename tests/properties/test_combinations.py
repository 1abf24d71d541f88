"""Properties of the combinations of losses, over losses of any size and any number of tasks."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtl.training.combination import Combination, DynamicWeightAverage, Famo, Uncertainty, Weighted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

VALUES = st.floats(1e-3, 50.0)
ROUNDS = st.integers(1, 4).flatmap(
    lambda tasks: st.lists(st.lists(VALUES, min_size=tasks, max_size=tasks), min_size=1, max_size=8)
)
MAKERS: dict[str, Callable[[Sequence[str]], Combination]] = {
    "sum": Combination,
    "weighted": lambda tasks: Weighted(tasks, {tasks[0]: 2.0}),
    "uncertainty": lambda tasks: Uncertainty(tasks, rate=0.01),
    "dwa": lambda tasks: DynamicWeightAverage(tasks, temperature=2.0, window=2),
    "famo": lambda tasks: Famo(tasks, rate=0.025, decay=0.001),
}


def names(values: Sequence[float]) -> list[str]:
    return [f"task{at}" for at in range(len(values))]


def losses(values: Sequence[float]) -> dict[str, Tensor]:
    return {task: torch.tensor(value) for task, value in zip(names(values), values, strict=True)}


def lived(how: Combination, rounds: Sequence[Sequence[float]]) -> Combination:
    """Return a combination after steps with these losses, whose losses fall by half for the first task alone."""
    optimizer = torch.optim.Adam(found, lr=0.1) if (found := list(how.parameters())) else None
    for values in rounds:
        total = how(losses(values))
        if optimizer is not None:
            optimizer.zero_grad()
            torch.autograd.backward(total)
            optimizer.step()
        how.observe(losses(values))
        how.update(losses(values), losses([values[0] / 2, *values[1:]]))
    return how


@given(values=st.lists(VALUES, min_size=1, max_size=5))
def test_weights_of_1_are_the_sum(values: list[float]) -> None:
    ones = dict.fromkeys(names(values), 1.0)
    assert Weighted(names(values), ones)(losses(values)).item() == Combination(names(values))(losses(values)).item()


@given(values=st.lists(VALUES, min_size=1, max_size=5))
def test_before_anything_is_learned_uncertainty_and_dwa_are_the_sum(values: list[float]) -> None:
    expected = Combination(names(values))(losses(values)).item()
    for name in ("uncertainty", "dwa"):
        assert MAKERS[name](names(values))(losses(values)).item() == pytest.approx(expected)


@given(rounds=ROUNDS)
def test_the_weights_of_dwa_sum_to_the_number_of_tasks(rounds: list[list[float]]) -> None:
    how = lived(MAKERS["dwa"](names(rounds[0])), rounds)
    weights = [float(each) for each in how.weights(losses(rounds[-1])).values()]
    assert sum(weights) == pytest.approx(len(weights), rel=1e-5)
    assert min(weights) >= 0


@given(rounds=ROUNDS)
def test_the_weights_of_famo_sum_to_1(rounds: list[list[float]]) -> None:
    how = lived(MAKERS["famo"](names(rounds[0])), rounds)
    weights = [float(each) for each in how.weights(losses(rounds[-1])).values()]
    assert sum(weights) == pytest.approx(1.0, rel=1e-5)
    assert min(weights) > 0


@pytest.mark.parametrize("name", MAKERS)
@given(before=ROUNDS, factor=st.floats(0.5, 2.0))
def test_a_combination_goes_on_from_its_state(name: str, before: list[list[float]], factor: float) -> None:
    """The state goes through a file that holds no code, as a checkpoint does."""
    make, tasks = MAKERS[name], names(before[0])
    one, other = lived(make(tasks), before), make(tasks)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    after = [[factor * value for value in values] for values in before]
    for values in after:
        assert torch.equal(one(losses(values)), other(losses(values)))
        for how in (one, other):
            how.observe(losses(values))
            how.update(losses(values), losses([value / 2 for value in values]))
    assert str(one.state_dict()) == str(other.state_dict())
