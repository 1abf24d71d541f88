"""Lightning's training loop with exact resumption: a checkpoint is written after a step, before what follows it.

Lightning 2.6 offers hooks only while its counters are between two states. A run that resumes from a checkpoint written
in ``on_train_batch_end`` skips what should have followed: a validation that was due, the end of the epoch with its
hooks and, after the last step of ``max_steps``, the end of training (`_FitLoop.reset`, `_TrainingEpochLoop.advance`).
These loops write a checkpoint when all counters agree that a step is complete and its figures are logged, and a resumed
run starts with what follows that step. They extend private classes, for which no public hook stands in: pyproject.toml
pins Lightning's minor version, and ``tests/unit/training/test_loop.py`` fails when the classes change.

The last step of training is always followed by a validation, whatever the intervals are: otherwise its weights could
not become the best ones, and what was learned since the last validation would be lost.
"""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from mtl.training.resume_points import ResumePoints


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
