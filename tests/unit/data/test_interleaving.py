"""Streams, plans and the sampler on small cases worked out by hand."""

from __future__ import annotations

import itertools
from typing import Any, cast

import numpy as np
import pytest

from mtl.data import bucketing
from mtl.data.bucketing import Budget, TaskStream, generator
from mtl.data.interleaving import MODES, Mode, plan_epoch, quotas
from mtl.data.sampling import StepSampler
from mtl.errors import ConfigError

LENGTHS = {"mood": np.full(10, 5), "topic": np.full(25, 5)}


def streams(batch_size: int = 4, **rows: int) -> list[TaskStream]:
    return [TaskStream(name, np.ones(count, int), batch_size, None, seed=0) for name, count in rows.items()]


def make(lengths: dict[str, Any] | None = None, **settings: Any) -> StepSampler:
    return StepSampler(LENGTHS if lengths is None else lengths, **{"batch_size": 4, "seed": 3, **settings})


def lists(steps: Any) -> list[dict[str, list[int]]]:
    return [{task: rows.tolist() for task, rows in step.items()} for step in steps]


def random_lengths(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).geometric(0.1, count)


def test_generators_depend_on_the_whole_key() -> None:
    keys: list[tuple[str | int, ...]] = [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1), (0, "a1"), (0, "a", "1")]
    draws = {int(generator(*key).integers(2**62)) for key in keys}

    assert len(draws) == len(keys)
    assert int(generator(0, "é", 1).integers(1000)) == 205  # the same on every machine and in every process


@pytest.mark.parametrize(
    ("budget", "longest", "rows"),
    [
        (Budget(8), 1000, 8),
        (Budget(8, 100), 10, 8),
        (Budget(8, 100), 30, 3),
        (Budget(8, 100), 101, 1),
        (Budget(8, 100), 0, 8),
        (Budget(8, 100, world_size=2), 30, 6),
        (Budget(8, 100, world_size=2), 101, 2),
    ],
)
def test_budget(budget: Budget, longest: int, rows: int) -> None:
    assert budget.rows(longest) == rows


def test_a_row_over_the_budget_is_a_batch_of_its_own() -> None:
    stream = TaskStream("a", [90, 3, 3, 40, 3], batch_size=8, max_tokens=30, seed=0)

    assert sorted(sorted(batch.tolist()) for batch in stream.batches_of(0)) == [[0], [1, 2, 4], [3]]


def test_rows_of_one_length_are_a_plain_shuffle() -> None:
    stream = TaskStream("a", np.full(1000, 7), batch_size=16, max_tokens=70, seed=0)
    sizes = [len(batch) for batch in stream.batches_of(0)]
    order = np.concatenate(stream.batches_of(0))

    assert sizes == [10] * 100
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.1


def test_unshuffled_passes_are_all_the_same_and_in_order() -> None:
    stream = TaskStream("a", np.ones(7, int), 3, None, seed=0, shuffle=False)

    for number in (0, 1, 5):
        assert [batch.tolist() for batch in stream.batches_of(number)] == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize("pool", [1, 3, 50])
def test_all_passes_have_the_same_number_of_batches(pool: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucketing, "POOL_BATCHES", pool)
    stream = TaskStream("a", random_lengths(600), batch_size=16, max_tokens=100, seed=0)
    raw = {len(stream._cut_pools(generator(i).permutation(600), stream._pool)) for i in range(30)}

    assert pool == 50 or (min(raw) < stream.batches < max(raw))
    for number in range(30):
        batches = stream.batches_of(number)
        assert len(batches) == stream.batches
        assert sorted(np.concatenate(batches).tolist()) == list(range(600))
        assert all(len(batch) == 1 or stream.longest(batch) * len(batch) <= 100 for batch in batches)


def test_pools_waste_little_padding_and_mix_the_rows() -> None:
    lengths = random_lengths(20_000)
    stream = TaskStream("a", lengths, batch_size=32, max_tokens=2048, seed=0)
    padded = sum(stream.longest(batch) * len(batch) for batch in stream.batches_of(1))
    together = [{frozenset(batch.tolist()) for batch in stream.batches_of(number)} for number in (1, 2)]

    assert padded / lengths.sum() < 1.1
    assert not together[0] & together[1]


def test_taking_crosses_passes() -> None:
    stream = streams(a=10)[0]
    whole = [batch.tolist() for number in range(5) for batch in stream.batches_of(number)]

    assert [batch.tolist() for batch in stream.take(2, 9)] == whole[2:11]


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
    plan = plan_epoch(streams(a=8, b=20), "paired", epoch=0)

    assert all(list(step) == ["a", "b"] for step in plan.steps)
    assert (len(plan), plan.counts["a"].passes, plan.counts["b"].passes) == (5, 2.5, 1.0)
    assert (plan.counts["a"].rows, plan.counts["a"].batches, plan.counts["b"].rows) == (20, 5, 20)


def test_the_shorter_task_goes_on_in_the_next_epoch() -> None:
    tasks = streams(a=8, b=20)
    seen = [row for epoch in range(2) for step in plan_epoch(tasks, "paired", epoch).steps for row in step["a"]]

    assert sorted(seen) == sorted(list(range(8)) * 5)


def test_paired_steps_join_batches_of_like_length() -> None:
    long, short = np.repeat([50, 5], 32), np.repeat([5, 50], 16)
    tasks = [TaskStream("a", long, 8, None, seed=0), TaskStream("b", short, 8, None, seed=0)]
    steps = plan_epoch(tasks, "paired", 0).steps
    pairs = [(tasks[0].longest(step["a"]), tasks[1].longest(step["b"])) for step in steps]

    assert sorted(pairs) == [(5, 5)] * 4 + [(50, 50)] * 4
    assert pairs != sorted(pairs)
    assert pairs != sorted(pairs, reverse=True)


def test_round_robin_goes_in_turn_and_passes_over_what_is_used_up() -> None:
    plan = plan_epoch(streams(b=6, c=4, a=13), "round_robin", 0)

    assert [next(iter(step)) for step in plan.steps] == ["a", "b", "c", "a", "b", "a", "a"]


@pytest.mark.parametrize("mode", ["proportional", "temperature"])
def test_random_orders_mix_the_tasks(mode: Mode) -> None:
    tasks = streams(a=200, b=200)
    turns = [[next(iter(step)) for step in plan_epoch(tasks, mode, epoch).steps] for epoch in range(2)]

    assert all(turn.count("a") == turn.count("b") == 50 for turn in turns)
    assert all(30 < sum(x != y for x, y in itertools.pairwise(turn)) < 70 for turn in turns)
    assert turns[0] != turns[1]


def test_summary() -> None:
    plan = plan_epoch(streams(classification=5000, mood=20), "paired", epoch=2)

    assert plan.summary() == (
        "epoch 2: 1,250 steps\n"
        "  classification      5,000 rows in 1,250 batches, 1.00 passes\n"
        "  mood                5,000 rows in 1,250 batches, 250.00 passes"
    )


@pytest.mark.parametrize("mode", MODES)
def test_the_order_of_the_tasks_makes_no_difference(mode: Mode) -> None:
    turned = dict(reversed(LENGTHS.items()))
    one, other = make(mode=mode), make(turned, mode=mode)

    for _ in range(3):
        assert [list(step.items()) for step in lists(one)] == [list(step.items()) for step in lists(other)]


def test_seeds_tasks_and_passes_differ() -> None:
    first, second = lists(make()), lists(make(seed=4))
    stream, other = streams(a=25, b=25)

    assert first != second
    assert np.concatenate(stream.take(0, 7)).tolist() != np.concatenate(other.take(0, 7)).tolist()
    assert np.concatenate(stream.take(0, 7)).tolist() != np.concatenate(stream.take(7, 7)).tolist()


def test_a_sampler_moves_to_the_next_epoch_after_its_last_step() -> None:
    sampler = make()
    assert len(sampler) == 7
    positions = [(sampler.epoch, sampler.step) for _ in sampler]

    assert positions == [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (0, 6), (1, 0)]
    assert lists(sampler) == lists(plan_epoch([*sampler._streams], "paired", 1, seed=3).steps)
    assert sampler.total_steps(5) == 35


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
    planned = sampler.plan.steps[0]
    step = sampler.advance()

    assert {task: rows.tolist() for task, rows in step.items()} == {
        task: rows[1::3].tolist() for task, rows in planned.items()
    }
    assert sampler.plan.counts["topic"].rows == 25


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


def test_every_difference_of_a_state_is_named() -> None:
    state = make(
        {"mood": [1] * 9, "news": [1], "topic": [2] * 25}, batch_size=8, seed=1, mode="temperature"
    ).state_dict()
    sampler = make(max_tokens=9, world_size=2)
    before = sampler.state_dict()

    with pytest.raises(ConfigError) as caught:
        sampler.load_state_dict(state)

    assert str(caught.value) == (
        "Configuration: 9 problems\n"
        "  data.interleave\n"
        "      found:    paired\n"
        "      expected: temperature, as in the checkpoint\n"
        "      repair:   set data.interleave=temperature, or start a new run\n"
        "  data.batch_size\n"
        "      found:    4\n"
        "      expected: 8, as in the checkpoint\n"
        "      repair:   set data.batch_size=8, or start a new run\n"
        "  data.max_tokens\n"
        "      found:    9\n"
        "      expected: null, as in the checkpoint\n"
        "      repair:   set data.max_tokens=null, or start a new run\n"
        "  data.temperature\n"
        "      found:    null\n"
        "      expected: 1.0, as in the checkpoint\n"
        "      repair:   set data.temperature=1.0, or start a new run\n"
        "  seed\n"
        "      found:    3\n"
        "      expected: 1, as in the checkpoint\n"
        "      repair:   set seed=1, or start a new run\n"
        "  trainer.devices\n"
        "      found:    2\n"
        "      expected: 1, as in the checkpoint\n"
        "      repair:   set trainer.devices=1, or start a new run\n"
        "  data.tasks\n"
        "      found:    mood, topic\n"
        "      expected: mood, news, topic, as in the checkpoint\n"
        "      repair:   resume with the tasks the run began with, or start a new run\n"
        "  data.tasks.mood.train\n"
        "      found:    10 rows\n"
        "      expected: 9 rows, as in the checkpoint\n"
        "      repair:   resume with the files the run began with, or start a new run\n"
        "  data.tasks.topic.train\n"
        "      found:    rows with other numbers of tokens\n"
        "      expected: the rows of the checkpoint\n"
        "      repair:   resume with the files and the backbone (its tokenizer and max_length) the run began with"
    )
    assert sampler.state_dict() == before


def test_a_temperature_that_is_not_used_may_change() -> None:
    make(temperature=2.0).load_state_dict(make(temperature=5.0).state_dict())


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        make().load_state_dict({"epoch": 1, **{key: 0 for key in make().state_dict() if key not in ("step", "seed")}})

    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  checkpoint\n"
        "      found:    a loader state without step, seed\n"
        "      expected: the position of a training run\n"
        "      repair:   resume from a checkpoint that this program wrote"
    )


def test_all_bad_arguments_are_named_together() -> None:
    with pytest.raises(ConfigError) as caught:
        make({"a": []}, mode=cast("Mode", "pared"), batch_size=0, max_tokens=0, rank=2, world_size=2)

    assert str(caught.value) == (
        "Configuration: 5 problems\n"
        "  data.interleave\n"
        "      found:    'pared'\n"
        "      expected: one of paired, round_robin, proportional, temperature\n"
        "      repair:   did you mean paired?\n"
        "  data.batch_size\n"
        "      found:    0\n"
        "      expected: 1 or more\n"
        "  data.max_tokens\n"
        "      found:    0\n"
        "      expected: 1 or more\n"
        "  rank\n"
        "      found:    2\n"
        "      expected: 0 to 1: a process of 2\n"
        "  data.tasks.a.train\n"
        "      found:    no rows\n"
        "      expected: at least one training row"
    )


def test_no_tasks_and_no_temperature() -> None:
    with pytest.raises(ConfigError) as caught:
        make({}, mode="temperature", temperature=0.0, world_size=0)

    assert str(caught.value) == (
        "Configuration: 3 problems\n"
        "  trainer.devices\n"
        "      found:    0\n"
        "      expected: 1 or more\n"
        "  data.temperature\n"
        "      found:    0.0\n"
        "      expected: a number above 0\n"
        "  data.tasks\n"
        "      found:    no tasks\n"
        "      expected: at least one task"
    )
