"""Task streams: passes over the rows of a task, cut by length under a budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mtl.data import buckets
from mtl.data.buckets import Budget, TaskStream, generator


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
        (Budget(8, 100, world_size=2), 10, 16),
        (Budget(8, 100, world_size=2), 30, 6),
        (Budget(8, 100, world_size=2), 40, 5),
        (Budget(8, 100, world_size=2), 201, 1),
    ],
)
def test_budget(budget: Budget, longest: int, rows: int) -> None:
    assert budget.rows(longest) == rows


def test_a_row_over_the_budget_is_a_batch_of_its_own() -> None:
    stream = TaskStream("a", [90, 3, 3, 40, 3], Budget(8, 30), seed=0)

    assert sorted(sorted(batch.tolist()) for batch in stream.batches_of(0)) == [[0], [1, 2, 4], [3]]


def test_rows_of_one_length_are_a_plain_shuffle() -> None:
    stream = TaskStream("a", np.full(1000, 7), Budget(16, 70), seed=0)
    sizes = [len(batch) for batch in stream.batches_of(0)]
    order = np.concatenate(stream.batches_of(0))

    assert sizes == [10] * 100
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.1


@pytest.mark.parametrize("pool", [1, 3, 50])
def test_all_passes_have_the_same_number_of_batches(pool: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "POOL_BATCHES", pool)
    stream = TaskStream("a", random_lengths(600), Budget(16, 100), seed=0)
    raw = {len(stream._cut_pools(generator(i).permutation(600), stream._pool)) for i in range(30)}

    assert pool == 50 or (min(raw) < stream.batches < max(raw))
    for number in range(30):
        batches = stream.batches_of(number)
        assert len(batches) == stream.batches
        assert sorted(np.concatenate(batches).tolist()) == list(range(600))
        assert all(len(batch) == 1 or stream.longest(batch) * len(batch) <= 100 for batch in batches)


def test_pools_waste_little_padding_and_mix_the_rows() -> None:
    lengths = random_lengths(20_000)
    stream = TaskStream("a", lengths, Budget(32, 2048), seed=0)
    padded = sum(stream.longest(batch) * len(batch) for batch in stream.batches_of(1))
    together = [{frozenset(batch.tolist()) for batch in stream.batches_of(number)} for number in (1, 2)]

    assert padded / lengths.sum() < 1.1
    assert not together[0] & together[1]


def test_taking_crosses_passes() -> None:
    stream = TaskStream("a", np.ones(10, int), Budget(4), seed=0)
    whole = [batch.tolist() for number in range(5) for batch in stream.batches_of(number)]

    assert [batch.tolist() for batch in stream.take(2, 9)] == whole[2:11]
