"""The order of training: which tasks and rows make up each step of an epoch, and the sampler, a position in it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mtl.base.errors import ConfigError, Problem
from mtl.data.buckets import Budget, TaskStream, generator

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

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
    names, left = list(taken), [iter(batches) for batches in taken.values()]
    turns = random.permutation(np.repeat(np.arange(len(taken)), [len(batches) for batches in taken.values()]))
    return [{names[turn]: next(left[turn])} for turn in turns.tolist()]


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


class StepSampler:
    """Yields the steps of training: which rows of which tasks each step takes, over all epochs.

    The steps are those of `plan_epoch`, and every epoch has the same number of them. The sampler is a cursor on their
    sequence: iterating yields the remaining steps of the current epoch and moves to the next one, so that an
    interrupted epoch continues where it stopped. The order of the tasks makes no difference; a step lists them by name.

    With several processes the plan is made for batches of ``batch_size * world_size`` rows, and the process ``rank``
    takes every ``world_size``-th row of each. Each row goes to exactly one process, so where a batch has fewer rows
    than there are processes some get none: the step then keeps the task with an empty array, and its rows may be none
    at all. All processes have the same number of steps and of tasks in a step.

    ``lengths`` are the numbers of tokens of each task's training rows, integer, ``(N_task,)``; all 1 where rows are not
    padded. `Budget` tells what ``batch_size`` and ``max_tokens`` of a task in a step are, `quotas` the temperature.
    """

    def __init__(
        self,
        lengths: Mapping[str, ArrayLike],
        *,
        mode: Mode = "paired",
        batch_size: int,
        max_tokens: int | None = None,
        temperature: float = 1.0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0  # the epoch that the next step belongs to
        self.step = 0  # the steps of that epoch that were handed out; after the last one 0 again
        self._settings: dict[str, Any] = {
            "mode": mode,
            "batch_size": batch_size,
            "max_tokens": max_tokens,
            "temperature": temperature if mode == "temperature" else None,
            "seed": seed,
            "world_size": world_size,
        }
        budget = Budget(batch_size, max_tokens, world_size)
        self._streams = [TaskStream(name, lengths[name], budget, seed) for name in sorted(lengths)]
        self._quotas = quotas(self._streams, mode, temperature)
        self._steps = max(self._quotas.values()) if mode == "paired" else sum(self._quotas.values())
        self._plan: tuple[int, list[Rows]] | None = None  # the latest epoch and its steps

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Step]:
        for _ in range(self._steps - self.step):
            yield self.advance()

    @property
    def plan(self) -> list[Rows]:
        """The steps of the current epoch, over all processes."""
        if self._plan is None or self._plan[0] != self.epoch:
            mode, seed = self._settings["mode"], self._settings["seed"]
            self._plan = self.epoch, plan_epoch(self._streams, self._quotas, mode, self.epoch, seed)
        return self._plan[1]

    @property
    def counts(self) -> dict[str, tuple[int, float]]:
        """By task the batches of an epoch, and how often these go over the task's rows."""
        counts = {}
        for stream in self._streams:
            batches = self._quotas[stream.name]
            counts[stream.name] = batches, batches / stream.batches
        return counts

    @property
    def too_long(self) -> dict[str, tuple[float, int]]:
        """The tasks with rows of which ``batch_size`` do not fit into ``max_tokens``.

        For each the share of those rows, and the ``max_tokens`` with which all batches could be full.
        """
        size, most = self._settings["batch_size"], self._settings["max_tokens"]
        if most is None:
            return {}
        shares = {stream: float((stream.lengths * size > most).mean()) for stream in self._streams}
        return {stream.name: (share, int(stream.lengths.max()) * size) for stream, share in shares.items() if share}

    def advance(self) -> Step:
        """Return the next step and move past it, into the next epoch after the last one."""
        whole = self.plan[self.step]
        share = {task: rows[self.rank :: self.world_size] for task, rows in whole.items()}
        step = Step(self.epoch * self._steps + self.step, share, whole)
        self.step += 1
        if self.step == self._steps:
            self.epoch, self.step = self.epoch + 1, 0
        return step

    def set_epoch(self, epoch: int) -> None:
        """Move to the first step of ``epoch``, unless the sampler is in it or past it already.

        Lightning calls this at the start of every epoch. It puts right what Lightning leaves out: the saved position
        is not loaded from a checkpoint written after the last step of an epoch, where the loop counts as finished
        (`_FitLoop.restarting` in lightning 2.6).
        """
        if epoch > self.epoch:
            self.epoch, self.step = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position in plain numbers, text and dicts: the same on every process.

        ``epoch`` and ``step`` are the position. ``tasks`` holds by task name where the epoch begins in the task's
        stream (``pass``, and ``batch`` in it), its number of rows and a checksum of their lengths. The rest is what
        the position depends on.
        """
        tasks = {stream.name: self._task_state(stream) for stream in self._streams}
        return {"epoch": self.epoch, "step": self.step, "tasks": tasks, **self._settings}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved position: the steps that follow are those that were left.

        Raises:
            ConfigError: It is a position in other steps, which `mtl.training.fingerprint` refuses in more words before.
        """
        if _order(state) != _order(self.state_dict()):
            found = "a position in an order of other tasks, rows or settings"
            raise ConfigError(Problem("checkpoint", found, "one in the order of this run", "start a new run"))
        self.epoch, self.step = int(state["epoch"]), int(state["step"])

    def _task_state(self, stream: TaskStream) -> dict[str, int]:
        number, batch = divmod(self.epoch * self._quotas[stream.name], stream.batches)
        checksum = zlib.crc32(stream.lengths.astype("<i8").tobytes())
        return {"pass": number, "batch": batch, "rows": len(stream), "lengths": checksum}


def _order(state: Mapping[str, Any]) -> list[Any]:
    """Return what the steps of a saved position depend on: with several processes rows and tokens of all of them."""
    totals = [value and value * state["world_size"] for value in (state["batch_size"], state["max_tokens"])]
    rows = {task: (values["rows"], values["lengths"]) for task, values in state["tasks"].items()}
    return [state["mode"], state["temperature"], state["seed"], totals, rows]


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
