"""Epoch plans on small cases worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mtl.data.buckets import Budget, TaskStream
from mtl.data.order import Mode, Rows, StepSampler, plan_epoch, quotas


def streams(batch_size: int = 4, **rows: int) -> list[TaskStream]:
    return [TaskStream(name, np.ones(count, int), Budget(batch_size), seed=0) for name, count in rows.items()]


def steps_of(tasks: list[TaskStream], mode: Mode, epoch: int = 0) -> list[Rows]:
    return plan_epoch(tasks, quotas(tasks, mode), mode, epoch, seed=0)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("paired", (8, 8)), ("round_robin", (8, 3)), ("proportional", (8, 3)), ("temperature", (8, 3))],
)
def test_quotas(mode: Mode, expected: tuple[int, int]) -> None:
    assert quotas(streams(b=10, a=30), mode) == dict(zip("ab", expected, strict=True))


@pytest.mark.parametrize(
    ("temperature", "shares"),
    [
        (1.0, {"a": 1, "b": 13, "c": 126}),  # exact: 1.51, 12.59, 125.90
        (2.0, {"a": 11, "b": 31, "c": 98}),  # exact: 10.76, 31.05, 98.19
        (1e9, {"a": 46, "b": 47, "c": 47}),  # exact: 46.67 each, a shade less for the smaller
    ],
)
def test_temperature_shares_all_batches_out(temperature: float, shares: dict[str, int]) -> None:
    tasks = streams(a=6, b=50, c=500)

    assert sum(shares.values()) == sum(stream.batches for stream in tasks) == 2 + 13 + 125
    assert quotas(tasks, "temperature", temperature) == shares


def test_a_tiny_task_is_not_left_out() -> None:
    assert quotas(streams(a=1, b=4000), "temperature")["a"] == 1
    assert quotas(streams(a=1, b=1, c=4000), "temperature", 0.05) == {"a": 1, "b": 1, "c": 1000}


def test_paired_steps_have_every_task_and_the_shorter_starts_over() -> None:
    sampler = StepSampler({"a": [1] * 8, "b": [1] * 20}, batch_size=4)

    assert all(list(step) == ["a", "b"] for step in sampler.plan)
    assert len(sampler.plan) == 5
    assert sampler.counts == {"a": (5, 2.5), "b": (5, 1.0)}


def test_the_shorter_task_goes_on_in_the_next_epoch() -> None:
    tasks = streams(a=8, b=20)
    seen = [row for epoch in range(2) for step in steps_of(tasks, "paired", epoch) for row in step["a"]]

    assert sorted(seen) == sorted(list(range(8)) * 5)


def test_paired_steps_join_batches_of_like_length() -> None:
    long, short = np.repeat([50, 5], 32), np.repeat([5, 50], 16)
    tasks = [TaskStream("a", long, Budget(8), seed=0), TaskStream("b", short, Budget(8), seed=0)]
    steps = steps_of(tasks, "paired")
    pairs = [(tasks[0].longest(step["a"]), tasks[1].longest(step["b"])) for step in steps]

    assert sorted(pairs) == [(5, 5)] * 4 + [(50, 50)] * 4
    assert pairs != sorted(pairs)
    assert pairs != sorted(pairs, reverse=True)


def test_round_robin_goes_in_turn_and_passes_over_what_is_used_up() -> None:
    steps = steps_of(streams(a=13, b=6, c=4), "round_robin")

    assert [next(iter(step)) for step in steps] == ["a", "b", "c", "a", "b", "a", "a"]


@pytest.mark.parametrize("mode", ["proportional", "temperature"])
def test_random_orders_mix_the_tasks(mode: Mode) -> None:
    tasks = streams(a=200, b=200)
    turns = [[next(iter(step)) for step in steps_of(tasks, mode, epoch)] for epoch in range(2)]

    assert all(turn.count("a") == turn.count("b") == 50 for turn in turns)
    assert all(30 < sum(x != y for x, y in itertools.pairwise(turn)) < 70 for turn in turns)
    assert turns[0] != turns[1]
