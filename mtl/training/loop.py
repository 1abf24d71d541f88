"""Lightning's training loop, with one place where it can be interrupted and resumed exactly: after a step.

Lightning 2.6 writes checkpoints in hooks. Resumed from one that was written at the end of a step, it leaves out what
would have followed: the validation that was due, the end of the epoch with its hooks, and, after the last step of
``max_steps``, the end of training (`_FitLoop.reset`, `_TrainingEpochLoop.advance`). These loops write a checkpoint when
all counters agree that a step is over and its figures are logged, and begin a resumed run with just what follows it.

The last step of training is always followed by a validation, whatever the intervals say: a state that was never
validated could not become the best one, and what training learned since the last validation would be thrown away.
"""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from mtl.training.resume_points import ResumePoints


def use_exact_loops(trainer: pl.Trainer, points: ResumePoints) -> None:
    """Give a trainer that has not run yet these loops.

    Args:
        trainer: The trainer.
        points: Told of each step that ended, and of the one behind which training goes on.
    """
    known = trainer.fit_loop
    fit_loop = _ExactFitLoop(trainer, min_epochs=known.min_epochs, max_epochs=known.max_epochs)
    fit_loop.epoch_loop = _ExactEpochLoop(trainer, points, known.min_steps, known.max_steps)
    trainer.fit_loop = fit_loop


class _ExactFitLoop(_FitLoop):
    @property
    def done(self) -> bool:
        """As in Lightning, but a run resumed behind its very last step still has to end its epoch and its training."""
        return not self.restarting and bool(super().done)


class _ExactEpochLoop(_TrainingEpochLoop):
    def __init__(self, trainer: pl.Trainer, points: ResumePoints, min_steps: int | None, max_steps: int) -> None:
        super().__init__(trainer, min_steps=min_steps, max_steps=max_steps)
        self._points = points

    @property
    def done(self) -> bool:
        """As in Lightning, but what follows the step behind which a run was resumed is never done yet."""
        return not self.restarting and bool(super().done)

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Do a step; a resumed run has done it already."""
        if self.restarting:
            self.val_loop.restarting = False
            self._points.go_on(self.trainer)
        else:
            super().advance(data_fetcher)

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        """Do what follows a step: first a checkpoint if one is due, then validation if it is due."""
        if not self.restarting:
            self._points.step_ended(self.trainer, accumulating=self._should_accumulate(), last=self._ends_training())
        super().on_advance_end(data_fetcher)

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        """As in Lightning, and after the last step of training."""
        due: bool = super()._should_check_val_fx(data_fetcher)
        return due or (self.trainer.enable_validation and self._ends_training())

    def _ends_training(self) -> bool:
        """Whether no step follows the one that has ended, as far as that is known before a validation."""
        trainer, fit_loop = self.trainer, self.trainer.fit_loop
        if self.global_step == self.max_steps:
            return True
        epochs = fit_loop.epoch_progress.current.processed + self._num_ready_batches_reached()
        if epochs == fit_loop.max_epochs:
            return True
        late_enough = epochs >= (fit_loop.min_epochs or 0) and self.global_step >= (self.min_steps or 0)
        return trainer.should_stop and late_enough
