"""Length buckets: cut the rows of a task, pass after pass, into batches of similar length under a token budget."""

from __future__ import annotations

import hashlib
import heapq
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

POOL_BATCHES = 50


def generator(*key: str | int) -> np.random.Generator:
    """Return the random generator of a key: the same on every machine, and unrelated for different keys."""
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).digest()
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(digest, "little")))


@dataclass(frozen=True, slots=True)
class Budget:
    """How large a batch may be."""

    batch_size: int  # the most rows of a batch, per process
    # The most tokens of a batch, padding included, per process; nothing for no such limit. A row that is longer by
    # itself is a batch of its own. With several processes it is their mean: a batch is as large as one process with all
    # their tokens would make it, and where its rows cannot be shared out evenly one process has one row more.
    max_tokens: int | None = None
    world_size: int = 1  # the number of processes that share a batch, each taking every ``world_size``-th row

    def rows(self, longest: int) -> int:
        """Return the most rows of a batch, over all processes, whose longest row has ``longest`` tokens."""
        rows = self.batch_size * self.world_size
        if self.max_tokens is not None:
            rows = min(rows, max(1, self.max_tokens * self.world_size // max(longest, 1)))
        return rows

    def cut(self, rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Cut rows ``(N,)``, sorted from long to short, into batches as large as allowed, by their lengths ``(N,)``.

        No other way to share the rows out gives fewer batches.
        """
        batches, start = [], 0
        while start < len(rows):
            batches.append(rows[start : start + self.rows(int(lengths[start]))])
            start += len(batches[-1])
        return batches


class TaskStream:
    """An endless sequence of passes over the rows of one task; each pass holds every row exactly once.

    ``lengths`` are the numbers of tokens of the ``N >= 1`` rows, integer, ``(N,)``. A pass depends on nothing but the
    arguments and its number: a random order is cut into pools of about ``POOL_BATCHES`` batches, each pool is sorted by
    length and cut into batches, and the batches are shuffled. Rows of one length make this a plain shuffle. In a batch
    the rows go from long to short.

    All passes have as many batches as the first one: a pass whose random pools would give more uses larger pools, and
    if they would give fewer, its largest batches are halved. Learning-rate schedules need a fixed number of steps, and
    so does Lightning, which measures the first epoch and cuts longer ones short.
    """

    def __init__(self, name: str, lengths: ArrayLike, budget: Budget, seed: int) -> None:
        self.name = name
        self.lengths = np.ascontiguousarray(lengths, dtype=np.int64)
        self._budget = budget
        self._seed = seed
        self._pool = POOL_BATCHES * self._budget.rows(int(np.median(self.lengths)))
        first = self._cut_pass(0)
        self.batches = len(first)
        self._latest: tuple[int, list[NDArray[np.int64]]] = (0, first)

    def __len__(self) -> int:
        return len(self.lengths)

    def batches_of(self, number: int) -> list[NDArray[np.int64]]:
        """Return the batches of pass ``number``, counted from 0: ``self.batches`` arrays of row indices, int64."""
        if self._latest[0] != number:
            self._latest = (number, self._cut_pass(number))
        return self._latest[1]

    def take(self, start: int, count: int) -> list[NDArray[np.int64]]:
        """Return ``count`` batches from the ``start``-th of the whole stream on, across as many passes as it takes."""
        taken: list[NDArray[np.int64]] = []
        while len(taken) < count:
            number, first = divmod(start + len(taken), self.batches)
            taken += self.batches_of(number)[first : first + count - len(taken)]
        return taken

    def longest(self, batch: NDArray[np.int64]) -> int:
        """Return the number of tokens of the longest row of a batch."""
        return int(self.lengths[batch].max())

    def _cut_pass(self, number: int) -> list[NDArray[np.int64]]:
        random = generator(self._seed, "pass", self.name, number)
        batches = self._cut_pools(random.permutation(len(self)), self._pool)
        if number > 0:
            batches = self._level(batches)
        return [batches[index] for index in random.permutation(len(batches))]

    def _level(self, batches: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """Bring the batches of a pass to the number of those of the first one."""
        pool = self._pool
        while len(batches) > self.batches:  # ends: one pool of all rows gives the fewest batches there can be
            pool *= 2
            batches = self._cut_pools(np.concatenate(batches), pool)
        _halve_largest(batches, self.batches - len(batches))
        return batches

    def _cut_pools(self, order: NDArray[np.int64], pool: int) -> list[NDArray[np.int64]]:
        lengths = self.lengths[order]
        by_length = np.lexsort((-lengths, np.arange(len(order)) // pool))
        order, lengths = order[by_length], lengths[by_length]
        starts = range(0, len(order), pool)
        return [batch for at in starts for batch in self._budget.cut(order[at : at + pool], lengths[at : at + pool])]


def _halve_largest(batches: list[NDArray[np.int64]], times: int) -> None:
    heap = [(-len(batch), index) for index, batch in enumerate(batches)]
    heapq.heapify(heap)
    for _ in range(times):
        _, index = heapq.heappop(heap)
        batch = batches[index]
        middle = (len(batch) + 1) // 2
        batches[index] = batch[:middle]
        batches.append(batch[middle:])
        heapq.heappush(heap, (-middle, index))
        heapq.heappush(heap, (middle - len(batch), len(batches) - 1))
