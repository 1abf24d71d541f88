"""What holds for the order of training, whatever the tasks, their lengths and the settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl.data import buckets
from mtl.data.order import Mode, Rows, StepSampler

EPOCHS = 4


@dataclass(frozen=True)
class Setup:
    """The arguments of a sampler, and how small its pools are."""

    lengths: dict[str, list[int]]
    mode: Any
    batch_size: int
    max_tokens: int | None
    temperature: float
    seed: int
    world_size: int = 1

    def sampler(self, rank: int = 0) -> StepSampler:
        return StepSampler(
            self.lengths,
            mode=self.mode,
            batch_size=self.batch_size,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=self.seed,
            rank=rank,
            world_size=self.world_size,
        )


@pytest.fixture(params=[1, 2, 50], scope="module", autouse=True)
def pool_batches(request: pytest.FixtureRequest) -> Iterator[None]:
    with mock.patch.object(buckets, "POOL_BATCHES", request.param):
        yield


def setups(world_size: st.SearchStrategy[int] = st.just(1)) -> st.SearchStrategy[Setup]:  # noqa: B008
    varied = st.lists(st.integers(0, 30), min_size=1, max_size=60)
    equal = st.builds(lambda length, count: [length] * count, st.integers(1, 30), st.integers(1, 60))
    return st.builds(
        Setup,
        lengths=st.dictionaries(st.text(max_size=4), varied | equal, min_size=1, max_size=3),
        mode=st.sampled_from(get_args(Mode)),
        batch_size=st.integers(1, 9),
        max_tokens=st.none() | st.integers(1, 80),
        temperature=st.floats(0.2, 20),
        seed=st.integers(0, 2**32 - 1),
        world_size=world_size,
    )


def epochs(sampler: StepSampler, count: int = EPOCHS) -> list[list[Rows]]:
    return [[step.rows for step in sampler] for _ in range(count)]


def plain(steps: Iterable[Rows]) -> list[list[tuple[str, list[int]]]]:
    return [[(task, rows.tolist()) for task, rows in step.items()] for step in steps]


def rows_of(task: str, steps: Iterable[Rows]) -> list[int]:
    return [int(row) for step in steps for row in step.get(task, ())]


@given(setups())
def test_each_row_once_per_epoch(setup: Setup) -> None:
    sampler = setup.sampler()
    longest = max(stream.batches for stream in sampler._streams)
    once = [
        stream.name
        for stream in sampler._streams
        if setup.mode in ("round_robin", "proportional") or (setup.mode == "paired" and stream.batches == longest)
    ]
    for steps in epochs(sampler):
        for task in once:
            assert Counter(rows_of(task, steps)) == Counter(range(len(setup.lengths[task])))


@given(setups())
def test_all_rows_of_a_task_come_equally_often(setup: Setup) -> None:
    steps: list[Rows] = []
    for epoch in epochs(setup.sampler()):
        steps += epoch
        for task, lengths in setup.lengths.items():
            seen = Counter(rows_of(task, steps))
            counts = [seen[row] for row in range(len(lengths))]
            assert sum(counts) == seen.total()
            assert max(counts) - min(counts) <= 1


@given(setups())
def test_no_row_comes_again_before_all_others_of_its_task_came(setup: Setup) -> None:
    sampler = setup.sampler()
    for stream in sampler._streams:
        for number in range(EPOCHS):
            batches = stream.batches_of(number)
            assert Counter(np.concatenate(batches).tolist()) == Counter(range(len(stream)))
            assert all(len(batch) for batch in batches)


@given(setups())
def test_epochs_take_the_batches_of_the_stream_one_after_the_other(setup: Setup) -> None:
    sampler = setup.sampler()
    steps = [step for epoch in epochs(sampler) for step in epoch]
    for stream in sampler._streams:
        taken = [tuple(step[stream.name].tolist()) for step in steps if stream.name in step]
        assert Counter(taken) == Counter(tuple(batch.tolist()) for batch in stream.take(0, len(taken)))


@given(setups())
def test_the_order_is_a_function_of_the_arguments(setup: Setup) -> None:
    turned = replace(setup, lengths=dict(reversed(setup.lengths.items())))
    for one, other in zip(epochs(setup.sampler()), epochs(turned.sampler()), strict=True):
        assert plain(one) == plain(other)


@given(setups())
def test_steps_have_the_tasks_of_the_mode(setup: Setup) -> None:
    for steps in epochs(setup.sampler()):
        expected = sorted(setup.lengths) if setup.mode == "paired" else None
        assert all(list(step) == expected if expected else len(step) == 1 for step in steps)


@given(setups(world_size=st.integers(1, 4)))
def test_the_budget_is_kept(setup: Setup) -> None:
    for rank in range(setup.world_size):
        for step in setup.sampler(rank):
            for task, rows in step.rows.items():
                longest = max((setup.lengths[task][row] for row in rows), default=0)
                assert len(rows) <= setup.batch_size
                # With several processes one may have a row more than another: see `Budget`.
                even = len(rows) - (setup.world_size > 1)
                assert setup.max_tokens is None or len(rows) <= 1 or longest * even <= setup.max_tokens


@given(setups(world_size=st.integers(2, 4)))
def test_several_processes_plan_as_one_with_all_their_rows(setup: Setup) -> None:
    limit = None if setup.max_tokens is None else setup.max_tokens * setup.world_size
    one = replace(setup, world_size=1, batch_size=setup.batch_size * setup.world_size, max_tokens=limit).sampler()
    several = setup.sampler(setup.world_size - 1)
    for step in several.plan:
        share = several.advance()
        assert plain([one.advance().rows]) == plain([share.whole]) == plain([step])
        assert share.rows.keys() == step.keys()


@given(setups(world_size=st.integers(2, 4)))
def test_the_processes_share_each_step_out(setup: Setup) -> None:
    samplers = [setup.sampler(rank) for rank in range(setup.world_size)]
    for _ in range(2):
        planned = samplers[0].plan
        for whole, *shares in zip(planned, *samplers, strict=True):
            for task, rows in whole.items():
                assert Counter(rows.tolist()) == Counter(row for share in shares for row in share.rows[task].tolist())
            assert all(list(share.rows) == list(whole) for share in shares)


@given(setups())
def test_the_steps_of_all_epochs_are_known_beforehand(setup: Setup) -> None:
    sampler = setup.sampler()
    numbers = [[step.number for step in sampler] for _ in range(EPOCHS)]

    assert [number for epoch in numbers for number in epoch] == [*range(EPOCHS * len(sampler))]
    assert list(map(len, numbers)) == [len(sampler)] * EPOCHS


@given(setups())
def test_the_counts_of_the_plan_are_those_of_the_steps(setup: Setup) -> None:
    sampler = setup.sampler()
    for _ in range(EPOCHS):
        steps = [step.rows for step in sampler]
        for task, (batches, _) in sampler.counts.items():
            assert batches == sum(task in step for step in steps)


@settings(deadline=None)
@given(setups(world_size=st.integers(1, 3)), st.data())
def test_a_resumed_run_sees_what_was_left(setup: Setup, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, setup.world_size - 1))
    whole = [plain([step]) for epoch in epochs(setup.sampler(rank)) for step in epoch]
    first = setup.sampler()
    position = data.draw(st.integers(0, len(whole) - 1))
    for _ in range(position):
        first.advance()

    turned = replace(setup, lengths=dict(reversed(setup.lengths.items())))
    second = turned.sampler(rank)
    second.load_state_dict(first.state_dict())
    left = len(first) - position % len(first)

    assert [plain([step.rows]) for step in second] == whole[position : position + left]
    assert [plain([second.advance().rows]) for _ in range(len(whole) - position - left)] == whole[position + left :]
