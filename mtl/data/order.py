"""The order of batches in an epoch: which tasks make up each step, as a pure function of the epoch's number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

import numpy as np

from mtl.data.buckets import TaskStream, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

Mode = Literal["paired", "round_robin", "proportional", "temperature"]

Rows = dict[str, "NDArray[np.int64]"]
"""The rows of each task in a step, int64, ``(B_task,)``; its tasks in their order."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One batch of training."""

    number: int  # its number over all epochs, from 0
    rows: Rows  # the rows of this process
    whole: Rows  # the rows of all processes


def quotas(streams: Sequence[TaskStream], mode: Mode, temperature: float = 1.0) -> dict[str, int]:
    """Return the number of batches that every epoch takes from each task, by name.

    - ``paired``: of each task as many as the largest pass has.
    - ``round_robin``, ``proportional``: of each task those of one pass.
    - ``temperature``: of all together those of one pass of each, shared out by ``rows ** (1 / temperature)`` and
      rounded by the largest remainder, but no task gets none. With 1 the shares are those of the rows; the higher, the
      more equal they are (multilingual BERT and XLM-R sample languages so, with exponent 1 / temperature).
    """
    own = {stream.name: stream.batches for stream in streams}
    if mode == "paired":
        return dict.fromkeys(own, max(own.values()))
    if mode == "temperature":
        logs = np.log([len(stream) for stream in streams]) / temperature
        shares = _share_out(sum(own.values()), np.exp(logs - logs.max()))
        return dict(zip(own, shares, strict=True))
    return own


def plan_epoch(
    streams: Sequence[TaskStream], quota: Mapping[str, int], mode: Mode, epoch: int, seed: int
) -> list[Rows]:
    """Return the steps of one epoch, over all processes.

    Every epoch takes the same number of batches from a task (``quota``, see `quotas`) and continues in its stream where
    the epoch before stopped, so the plan of any epoch is found without those before it.

    - ``paired``: each step has one batch of each task. Within the epoch the batches of each task are ranked by their
      longest row and those of one rank put together, since the encoder pads them together; then the steps are shuffled.
    - ``round_robin``: each step has one task, in turn; a task whose pass is used up is passed over.
    - ``proportional``, ``temperature``: each step has one task; the order of the tasks is random.
    """
    taken = {stream.name: stream.take(epoch * quota[stream.name], quota[stream.name]) for stream in streams}
    random = generator(seed, "epoch", epoch)
    if mode == "paired":
        return _paired(streams, taken, random)
    if mode == "round_robin":
        return _in_turn(taken)
    return _in_random_order(taken, random)


def _paired(
    streams: Sequence[TaskStream], taken: Mapping[str, list[NDArray[np.int64]]], random: np.random.Generator
) -> list[Rows]:
    ranked = [sorted(taken[stream.name], key=stream.longest, reverse=True) for stream in streams]
    steps = [dict(zip(taken, batches, strict=True)) for batches in zip(*ranked, strict=True)]
    return [steps[index] for index in random.permutation(len(steps))]


def _in_turn(taken: Mapping[str, list[NDArray[np.int64]]]) -> list[Rows]:
    rounds = zip_longest(*taken.values())
    return [{name: batch} for turn in rounds for name, batch in zip(taken, turn, strict=True) if batch is not None]


def _in_random_order(taken: Mapping[str, list[NDArray[np.int64]]], random: np.random.Generator) -> list[Rows]:
    steps = [{name: batch} for name, batches in taken.items() for batch in batches]
    turns = random.permutation(np.repeat(np.arange(len(taken)), [len(batches) for batches in taken.values()]))
    place = np.empty(len(steps), dtype=np.int64)
    place[np.argsort(turns, kind="stable")] = np.arange(len(steps))  # each task's batches keep their order
    return [steps[index] for index in place]


def _share_out(total: int, weights: NDArray[np.float64]) -> list[int]:
    """Share ``total`` out by weight, rounded by the largest remainder, at least 1 for each."""
    exact = total * weights / weights.sum()
    shares = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(shares - exact, kind="stable")
    shares[by_remainder[: total - shares.sum()]] += 1
    for none in np.flatnonzero(shares == 0):
        shares[shares.argmax()] -= 1
        shares[none] = 1
    return [int(share) for share in shares]


@dataclass(frozen=True, slots=True)
class OptimizerSteps:
    """How the batches of training become optimizer steps.

    As Lightning counts them: a step takes ``accumulate`` batches, and the last step of an epoch what is left of them.
    """

    batches: int  # batches of an epoch that training takes
    accumulate: int = 1  # batches whose gradients a step sums up

    @property
    def per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return math.ceil(self.batches / self.accumulate)

    def of(self, epoch: int, batch: int) -> int:
        """Return the step, over all epochs, that a batch belongs to; all numbers from 0."""
        return epoch * self.per_epoch + batch // self.accumulate
