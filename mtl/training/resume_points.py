"""Resume points: checkpoints from which an interrupted run ends with the same weights as an uninterrupted one.

On a CPU the weights are identical bit for bit. With frozen layers this holds as long as the cached activations are the
same: if they are computed again, in other batches, their last bits may differ, and the run logs a warning.
`mtl.training.prepare` finds the point to resume from and refuses other data, weights or settings.

Lightning 2.6 offers hooks only while its counters are between two states. A run that resumes from a checkpoint written
in ``on_train_batch_end`` skips what should have followed: a validation that was due, the end of the epoch with its
hooks and, after the last step of ``max_steps``, the end of training (`_FitLoop.reset`, `_TrainingEpochLoop.advance`).
The loops of `use_exact_loops` write a checkpoint when all counters agree that a step is complete and its figures are
logged, and a resumed run starts with what follows that step. They extend private classes, for which no public hook
stands in: pyproject.toml pins Lightning's minor version, and ``tests/unit/training/test_resume_points.py`` fails when
the classes change.

The last step of training is always followed by a validation, whatever the intervals are: otherwise its weights could
not become the best ones, and what was learned since the last validation would be lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from mtl.base.errors import ModelError, Problem
from mtl.config.trainer import CallbacksConfig
from mtl.training.averaging import AveragedWeights
from mtl.training.checkpoint_schema import validate
from mtl.training.checkpoints import (
    LAST,
    PREVIOUS,
    CurveLog,
    from_json,
    random_state,
    read_checkpoint,
    restore_random_state,
    to_json,
)
from mtl.training.parallel import gather_json
from mtl.training.stopping import Stop

log = logging.getLogger(__name__)
KEY: Final = "mtl"
"""The key of what Lightning does not save, see `ResumePoints.on_save_checkpoint`."""
_SHARE: Final = 0.05


class ResumePoints(Checkpoint):
    """Write resume points, and resume from one.

    Every point lies between an optimizer step and what follows it (validation, the end of the epoch), see
    `use_exact_loops`. Points by epoch and by minutes are skipped while they would take more than a twentieth of the
    time: an epoch of a head alone may be faster than the disk.

    Args:
        folder: The folder of the checkpoints.
        settings: When to write; without ``save_last`` only on a signal to end.
        stop: Whether the process is to end.
        inputs: What the run depends on, as plain values; saved in every point.
        activations: A checksum of the activations of frozen layers that were used so far, by boundary; may grow.
    """

    def __init__(
        self,
        folder: Path,
        settings: CallbacksConfig,
        stop: Stop,
        inputs: Mapping[str, Any],
        activations: Mapping[str, str],
    ) -> None:
        self._activations = activations
        self._path = folder / LAST
        self._settings = settings
        self._stop = stop
        self._inputs = dict(inputs)
        self._restored: dict[str, Any] = {}
        self._accumulating = False
        self._saved_step = 0
        self._saved_at = 0.0
        self._cost = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Handle signals again instead of Lightning, which would stop only after a validation; start the clock."""
        self._stop.listen()
        self._saved_step = trainer.global_step
        self._saved_at = time.monotonic()

    def resume(self, trainer: pl.Trainer) -> None:
        """Restore, when training continues, what other code may have changed since the point was loaded."""
        trainer.should_stop = self._restored["should_stop"]
        ranks = self._restored["random"]
        restore_random_state(ranks[trainer.global_rank % len(ranks)])

    def step_ended(self, trainer: pl.Trainer, *, accumulating: bool, last: bool) -> None:
        """Write a point if one is due, and stop if the process is to end.

        Nothing is written while gradients are being accumulated: they are not part of a checkpoint.
        """
        self._accumulating = accumulating and not last
        if self._accumulating or _is_trial(trainer):
            return
        requested = self._stop.requested
        if not self._any_rank(trainer, requested or self._is_due(trainer, last)):  # one reduction in nearly all steps
            return
        self._save(trainer)
        if self._any_rank(trainer, requested):
            raise self._stop.terminated()

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop within a validation on a signal to end; it will be repeated from its start."""
        waits = self._accumulating or trainer.sanity_checking or _is_trial(trainer)
        if waits or not self._any_rank(trainer, self._stop.requested):
            return
        if self._saved_step != trainer.global_step:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, AveragedWeights):
                    callback.show(trainer.lightning_module, averages=False)
            self._save(trainer)
        raise self._stop.terminated()

    def _is_due(self, trainer: pl.Trainer, last: bool) -> bool:
        minutes, steps = self._settings.save_every_minutes, self._settings.save_every_steps
        if not self._settings.save_last:
            return False
        if last or (steps is not None and trainer.global_step - self._saved_step >= steps):
            return True
        waited = time.monotonic() - self._saved_at
        timed = minutes is not None and waited >= 60 * minutes
        return (trainer.is_last_batch or timed) and waited >= self._cost / _SHARE

    @staticmethod
    def _any_rank(trainer: pl.Trainer, decision: bool) -> bool:
        """Return whether any process decides so: all of them must take part in writing a checkpoint."""
        if trainer.world_size == 1:
            return decision
        return trainer.strategy.reduce_boolean_decision(decision, all=False)

    def _save(self, trainer: pl.Trainer) -> None:
        start = time.monotonic()
        trainer.save_checkpoint(self._path, weights_only=False)
        self._saved_step = trainer.global_step
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - start

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what Lightning leaves out: random generators of all processes, a pending stop, the rows of curves."""
        rows = [logger.sync() for logger in trainer.loggers if isinstance(logger, CurveLog)]
        checkpoint[KEY] = {
            "inputs": self._inputs,
            "random": _of_all_ranks(trainer, random_state()),
            "should_stop": trainer.should_stop,
            "log_rows": rows[0] if rows else 0,
            "activations": dict(self._activations),
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what `resume` restores."""
        self._restored = checkpoint[KEY]


def _is_trial(trainer: pl.Trainer) -> bool:
    """Whether this is a ``fast_dev_run``, for which Lightning writes no checkpoints."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def _of_all_ranks(trainer: pl.Trainer, state: dict[str, Any]) -> list[dict[str, Any]]:
    if trainer.world_size == 1:
        return [state]
    return [from_json(saved) for saved in gather_json(to_json(state), trainer.strategy.root_device)]


@dataclass(frozen=True, slots=True)
class Point:
    """An undamaged resume point."""

    path: Path
    inputs: dict[str, Any]  # what the run depended on when it was written
    log_rows: int  # the number of rows of the curves
    log_step: int  # the next step, as loggers count
    activations: dict[str, str]  # a checksum of the activations of frozen layers that were used, by boundary


def last_point(folder: Path) -> Point | None:
    """Return the last undamaged resume point in a folder of checkpoints; None if none was written.

    A damaged point is logged, and the one before it is used.

    Raises:
        ModelError: All points are damaged.
    """
    problems: list[Problem] = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            point = _point(path)
        except ModelError as error:
            problems += error.problems
            continue
        for problem in problems:
            log.warning("%s: %s; resuming from the checkpoint before it, %s", problem.place, problem.found, path.name)
        return point
    if problems:
        raise ModelError([replace(problem, repair=problem.repair or "start the run again") for problem in problems])
    return None


def _point(path: Path) -> Point:
    checkpoint = read_checkpoint(path, mapped=True)
    state = checkpoint.get(KEY)
    if state is None:
        raise ModelError(Problem(str(path), "weights alone", "a checkpoint with everything that a training needs"))
    validate(checkpoint, path)
    used = state.get("activations", {})
    return Point(path, state["inputs"], state["log_rows"], checkpoint["global_step"], used)


def use_exact_loops(trainer: pl.Trainer, points: ResumePoints) -> None:
    """Replace the loops of a trainer that has not run yet."""
    original = trainer.fit_loop
    fit_loop = _ExactFitLoop(trainer, min_epochs=original.min_epochs, max_epochs=original.max_epochs)
    fit_loop.epoch_loop = _ExactEpochLoop(trainer, points, original.min_steps, original.max_steps)
    trainer.fit_loop = fit_loop


class _ExactFitLoop(_FitLoop):
    @property
    def done(self) -> bool:
        """Continue where Lightning stops if the run was resumed after its last step: the epoch must still end."""
        return not self.restarting and bool(super().done)


class _ExactEpochLoop(_TrainingEpochLoop):
    def __init__(self, trainer: pl.Trainer, points: ResumePoints, min_steps: int | None, max_steps: int) -> None:
        super().__init__(trainer, min_steps=min_steps, max_steps=max_steps)
        self._points = points

    @property
    def done(self) -> bool:
        """Continue where Lightning stops if the run was resumed: what follows its last step is still to do."""
        return not self.restarting and bool(super().done)

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Train on a batch; a resumed run has trained on it already."""
        if self.restarting:
            self.val_loop.restarting = False
            self._points.resume(self.trainer)
        else:
            super().advance(data_fetcher)

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        """Write a checkpoint if one is due, then do what follows a step: validate if that is due."""
        if not self.restarting:
            self._points.step_ended(self.trainer, accumulating=self._should_accumulate(), last=self._ends_training())
        super().on_advance_end(data_fetcher)

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        due: bool = super()._should_check_val_fx(data_fetcher)
        return due or (self.trainer.enable_validation and self._ends_training())

    def _ends_training(self) -> bool:
        """Whether no step follows this one, as far as is known before a validation."""
        trainer, fit_loop = self.trainer, self.trainer.fit_loop
        if self.global_step == self.max_steps:
            return True
        epochs = fit_loop.epoch_progress.current.processed + self._num_ready_batches_reached()
        if epochs == fit_loop.max_epochs:
            return True
        late_enough = epochs >= (fit_loop.min_epochs or 0) and self.global_step >= (self.min_steps or 0)
        return trainer.should_stop and late_enough
