"""The sampler: yields the steps of epoch after epoch, keeps its position, and resumes from it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl.base.errors import ConfigError, Problem, did_you_mean, listed
from mtl.data.buckets import TaskStream
from mtl.data.order import MODES, EpochPlan, Mode, Step, plan_epoch, quotas

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


# What must be the same for a saved position to mean the same steps, and the configuration key that sets it.
_KEYS = {
    "mode": "data.interleave",
    "batch_size": "data.batch_size",
    "max_tokens": "data.max_tokens",
    "temperature": "data.temperature",
    "seed": "seed",
    "world_size": "trainer.devices",
}


class StepSampler:
    """Yields the steps of training: which rows of which tasks each step takes, over all epochs.

    The steps are those of `plan_epoch`, and every epoch has the same number of them. The sampler is a cursor on their
    sequence: iterating yields the remaining steps of the current epoch and moves to the next one, so that an
    interrupted epoch continues where it stopped. The order of the tasks makes no difference; a step lists them by name.

    With several processes the plan is made for batches of ``batch_size * world_size`` rows, and the process ``rank``
    takes every ``world_size``-th row of each. Each row goes to exactly one process, so where a batch has fewer rows
    than there are processes some get none: the step then keeps the task with an empty array, and its rows may be none
    at all. All processes have the same number of steps and of tasks in a step.

    Args:
        lengths: The number of tokens of each training row of each task, integer, ``(N_task,)``; all 1 where rows are
            not padded.
        mode: How the tasks are interleaved, one of `MODES`; see `plan_epoch`.
        batch_size: The most rows of a task in a step, per process.
        max_tokens: The most tokens (rows times the longest row) of a task in a step, per process; nothing for no limit.
        temperature: For ``temperature``: see `quotas`.
        seed: Seeds the order of rows and steps.
        rank: The number of this process.
        world_size: The number of processes.

    Raises:
        ConfigError: An argument is out of range, or a task has no rows; all such problems together.
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
        rows = {name: np.asarray(lengths[name], dtype=np.int64) for name in sorted(lengths)}
        self._identity: dict[str, Any] = {
            "mode": mode,
            "batch_size": batch_size,
            "max_tokens": max_tokens,
            "temperature": temperature if mode == "temperature" else None,
            "seed": seed,
            "world_size": world_size,
        }
        if problems := [*_setting_problems(self._identity, rank), *_task_problems(rows)]:
            raise ConfigError(problems)
        self._mode: Mode = mode
        self._temperature = temperature
        self._rank = rank
        self._streams = [
            TaskStream(name, values, batch_size, max_tokens, seed, world_size=world_size)
            for name, values in rows.items()
        ]
        self._quotas = quotas(self._streams, mode, temperature)
        self._steps = max(self._quotas.values()) if mode == "paired" else sum(self._quotas.values())
        self._epoch = 0
        self._step = 0
        self._plan: EpochPlan | None = None

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Step]:
        for _ in range(self._steps - self._step):
            yield self.advance()

    @property
    def epoch(self) -> int:
        """The number of the epoch that the next step belongs to, from 0."""
        return self._epoch

    @property
    def step(self) -> int:
        """The number of steps of the current epoch that were handed out; after the last one it is 0 again."""
        return self._step

    @property
    def rank(self) -> int:
        """The number of this process."""
        return self._rank

    @property
    def world_size(self) -> int:
        """The number of processes."""
        return int(self._identity["world_size"])

    @property
    def plan(self) -> EpochPlan:
        """The plan of the current epoch, over all processes."""
        if self._plan is None or self._plan.epoch != self._epoch:
            self._plan = plan_epoch(
                self._streams, self._mode, self._epoch, temperature=self._temperature, seed=self._identity["seed"]
            )
        return self._plan

    @property
    def too_long(self) -> dict[str, tuple[float, int]]:
        """The tasks with rows of which ``batch_size`` do not fit into ``max_tokens``.

        For each the share of those rows, and the ``max_tokens`` with which all batches could be full.
        """
        size, most = self._identity["batch_size"], self._identity["max_tokens"]
        if most is None:
            return {}
        shares = {stream.name: float((stream.lengths * size > most).mean()) for stream in self._streams}
        needs = {stream.name: int(stream.lengths.max()) * size for stream in self._streams}
        return {task: (share, needs[task]) for task, share in shares.items() if share}

    def advance(self) -> Step:
        """Return the next step and move past it, into the next epoch after the last one."""
        whole = self.plan.steps[self._step]
        share = {task: rows[self._rank :: self.world_size] for task, rows in whole.items()}
        step = Step(self._epoch * self._steps + self._step, share, whole)
        self._step += 1
        if self._step == self._steps:
            self._epoch, self._step = self._epoch + 1, 0
        return step

    def set_epoch(self, epoch: int) -> None:
        """Move to the first step of ``epoch``, unless the sampler is in it or past it already.

        Lightning calls this at the start of every epoch. It puts right what Lightning leaves out: the saved position
        is not loaded from a checkpoint written after the last step of an epoch, where the loop counts as finished
        (`_FitLoop.restarting` in lightning 2.6).
        """
        if epoch > self._epoch:
            self._epoch, self._step = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position in plain numbers, text and dicts: the same on every process.

        ``epoch`` and ``step`` are the position. ``tasks`` holds by task name where the epoch begins in the task's
        stream (``pass``, and ``batch`` in it), its number of rows and a checksum of their lengths. The rest is what
        the position depends on.
        """
        tasks = {stream.name: self._task_state(stream) for stream in self._streams}
        return {"epoch": self._epoch, "step": self._step, "tasks": tasks, **self._identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved position: the steps that follow are those that were left.

        Raises:
            ConfigError: The state is of other tasks, rows or settings; all differences together.
        """
        if missing := [key for key in ("epoch", "step", "tasks", *self._identity) if key not in state]:
            found, expected = f"a loader state without {listed(missing)}", "the position of a training run"
            raise ConfigError(
                Problem("checkpoint", found, expected, "resume from a checkpoint that this program wrote")
            )
        if problems := [*self._changed_settings(state), *self._changed_tasks(state["tasks"])]:
            raise ConfigError(problems)
        self._epoch, self._step = int(state["epoch"]), int(state["step"])

    def _task_state(self, stream: TaskStream) -> dict[str, int]:
        number, batch = divmod(self._epoch * self._quotas[stream.name], stream.batches)
        checksum = zlib.crc32(stream.lengths.astype("<i8").tobytes())
        return {"pass": number, "batch": batch, "rows": len(stream), "lengths": checksum}

    def _changed_settings(self, saved: Mapping[str, Any]) -> Iterator[Problem]:
        same_steps = _totals(saved) == _totals(self._identity)  # perhaps in another number of processes
        for key, value in self._identity.items():
            if value != saved[key] and not (same_steps and key in ("batch_size", "max_tokens", "world_size")):
                now, before = ("null" if setting is None else str(setting) for setting in (value, saved[key]))
                repair = f"set {_KEYS[key]}={before}, or start a new run"
                yield Problem(_KEYS[key], now, f"{before}, as in the checkpoint", repair)

    def _changed_tasks(self, saved: Mapping[str, Mapping[str, int]]) -> Iterator[Problem]:
        names, saved_names = [stream.name for stream in self._streams], sorted(saved)
        if names != saved_names:
            repair = "resume with the tasks the run began with, or start a new run"
            yield Problem("data.tasks", listed(names), f"{listed(saved_names)}, as in the checkpoint", repair)
        for stream in self._streams:
            if stream.name not in saved:
                continue
            place, now, before = f"data.tasks.{stream.name}.train", self._task_state(stream), saved[stream.name]
            if now["rows"] != before["rows"]:
                repair = "resume with the files the run began with, or start a new run"
                yield Problem(place, f"{now['rows']} rows", f"{before['rows']} rows, as in the checkpoint", repair)
            elif now["lengths"] != before["lengths"]:
                repair = "resume with the files and the backbone (its tokenizer and max_length) the run began with"
                yield Problem(place, "rows with other numbers of tokens", "the rows of the checkpoint", repair)


def _totals(state: Mapping[str, Any]) -> list[int | None]:
    """Return the rows and tokens of a step over all processes."""
    return [value and value * state["world_size"] for value in (state["batch_size"], state["max_tokens"])]


def _setting_problems(identity: Mapping[str, Any], rank: int) -> Iterator[Problem]:
    mode, temperature, world_size = identity["mode"], identity["temperature"], identity["world_size"]
    if mode not in MODES:
        yield Problem("data.interleave", repr(mode), f"one of {listed(MODES)}", did_you_mean(str(mode), MODES))
    for key in ("batch_size", "max_tokens", "world_size"):
        value = identity[key]
        if value is not None and value < 1:
            yield Problem(_KEYS[key], str(value), "1 or more")
    if temperature is not None and temperature <= 0:
        yield Problem("data.temperature", str(temperature), "a number above 0")
    if not 0 <= rank < max(world_size, 1):
        yield Problem("rank", str(rank), f"0 to {max(world_size, 1) - 1}: a process of {max(world_size, 1)}")


def _task_problems(rows: Mapping[str, NDArray[np.int64]]) -> Iterator[Problem]:
    if not rows:
        yield Problem("data.tasks", "no tasks", "at least one task")
    for name, lengths in rows.items():
        if not len(lengths):
            yield Problem(f"data.tasks.{name}.train", "no rows", "at least one training row")
