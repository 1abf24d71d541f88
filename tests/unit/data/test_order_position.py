"""The sampler: its order, its position, and what it refuses."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from mtl.base.errors import ConfigError
from mtl.data.order import Mode, Step, StepSampler

LENGTHS = {"mood": np.full(10, 5), "topic": np.full(25, 5)}


def make(lengths: dict[str, Any] | None = None, **settings: Any) -> StepSampler:
    return StepSampler(LENGTHS if lengths is None else lengths, **{"batch_size": 4, "seed": 3, **settings})


def lists(steps: Any) -> list[dict[str, list[int]]]:
    """Return the rows of a sampler's steps, or of a plan's, as lists."""
    all_rows = [step.rows if isinstance(step, Step) else step for step in steps]
    return [{task: rows.tolist() for task, rows in step.items()} for step in all_rows]


@pytest.mark.parametrize("mode", get_args(Mode))
def test_the_order_of_the_tasks_makes_no_difference(mode: Mode) -> None:
    turned = dict(reversed(LENGTHS.items()))
    one, other = make(mode=mode), make(turned, mode=mode)

    for _ in range(3):
        assert [list(step.items()) for step in lists(one)] == [list(step.items()) for step in lists(other)]


def test_seeds_tasks_and_passes_differ() -> None:
    sampler = make({"a": [1] * 25, "b": [1] * 25})
    first, second = lists(sampler), lists(sampler)

    assert lists(make(seed=3)) == lists(make()) != lists(make(seed=4))
    assert [step["a"] for step in first] != [step["b"] for step in first]
    assert [step["a"] for step in first] != [step["a"] for step in second]


def test_a_sampler_moves_to_the_next_epoch_after_its_last_step() -> None:
    sampler = make()
    assert len(sampler) == 7
    positions = [(sampler.epoch, sampler.step) for _ in sampler]

    assert positions == [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (0, 6), (1, 0)]
    assert lists(sampler.plan) == lists(sampler) != lists(make())


def test_an_epoch_broken_off_goes_on_where_it_stopped() -> None:
    whole = lists(make())
    sampler = make()
    iterator = iter(sampler)
    begun = lists(next(iterator) for _ in range(3))

    assert begun + lists(sampler) == whole


def test_set_epoch_goes_forward_only() -> None:
    sampler, other = make(), make()
    sampler.advance()
    sampler.set_epoch(0)
    assert (sampler.epoch, sampler.step) == (0, 1)

    sampler.set_epoch(2)
    list(other), list(other)
    assert lists(sampler) == lists(other)
    assert (sampler.epoch, sampler.step) == (3, 0)

    sampler.set_epoch(1)
    assert (sampler.epoch, sampler.step) == (3, 0)


def test_the_plan_is_that_of_all_processes() -> None:
    sampler = make(rank=1, world_size=3)
    planned = sampler.plan[0]
    step = sampler.advance()

    assert step.number == 0
    assert step.whole is planned
    assert {task: rows.tolist() for task, rows in step.rows.items()} == {
        task: rows[1::3].tolist() for task, rows in planned.items()
    }


def test_a_process_without_rows_keeps_the_tasks() -> None:
    steps = lists(make({"a": [1], "b": [1, 1, 1]}, rank=2, world_size=4))

    assert [{task: len(rows) for task, rows in step.items()} for step in steps] == [{"a": 0, "b": 1}]


def test_the_state_is_plain_and_by_name() -> None:
    sampler = make(max_tokens=64)
    list(sampler)
    sampler.advance()

    assert sampler.state_dict() == {
        "epoch": 1,
        "step": 1,
        "tasks": {
            "mood": {"pass": 2, "batch": 1, "rows": 10, "lengths": 3269821335},
            "topic": {"pass": 1, "batch": 0, "rows": 25, "lengths": 2742765248},
        },
        "mode": "paired",
        "batch_size": 4,
        "max_tokens": 64,
        "temperature": None,
        "seed": 3,
        "world_size": 1,
    }


@pytest.mark.parametrize(
    ("lengths", "settings"),
    [
        ({"mood": [1] * 9}, {}),
        ({"topic": [2] * 25}, {}),
        ({"news": [1]}, {}),
        ({}, {"batch_size": 8}),
        ({}, {"max_tokens": 9}),
        ({}, {"seed": 1}),
        ({}, {"mode": "round_robin"}),
        ({}, {"mode": "temperature", "temperature": 2.0}),
    ],
)
def test_a_position_in_other_steps_is_refused(lengths: dict[str, Any], settings: dict[str, Any]) -> None:
    state = make({**LENGTHS, **lengths}, **settings).state_dict()
    sampler = make()
    sampler.advance()
    before = sampler.state_dict()

    with pytest.raises(ConfigError) as caught:
        sampler.load_state_dict(state)

    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  checkpoint\n"
        "      found:    a position in an order of other tasks, rows or settings\n"
        "      expected: one in the order of this run\n"
        "      repair:   start a new run"
    )
    assert sampler.state_dict() == before


def test_another_number_of_processes_has_the_same_steps() -> None:
    two = [make(batch_size=6, max_tokens=30, rank=rank, world_size=2) for rank in range(2)]
    for sampler in two:
        sampler.advance()
    three = [make(batch_size=4, max_tokens=20, rank=rank, world_size=3) for rank in range(3)]
    for sampler in three:
        sampler.load_state_dict(two[0].state_dict())
    for _ in range(len(two[0])):
        expected = two[0].advance()
        assert two[1].advance().whole.keys() == expected.whole.keys()
        for sampler in three:
            step = sampler.advance()
            assert step.number == expected.number
            assert {task: rows.tolist() for task, rows in step.whole.items()} == {
                task: rows.tolist() for task, rows in expected.whole.items()
            }


def test_a_temperature_that_is_not_used_may_change() -> None:
    make(temperature=2.0).load_state_dict(make(temperature=5.0).state_dict())
