"""Callbacks: the best checkpoint, what a person reads while training runs, and what it costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import lightning.pytorch as pl
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from mtl.activations.frozen import FrozenActivations
from mtl.data.batch import Batch
from mtl.evaluation.records import EpochFigures

BEST: Final = "best.ckpt"


class BestCheckpoint(ModelCheckpoint):
    """Keep the weights of the best validation."""

    def __init__(self, folder: Path, monitor: str) -> None:
        super().__init__(
            folder,
            filename=Path(BEST).stem,
            monitor=monitor,
            mode="max",
            save_weights_only=True,
            save_on_train_epoch_end=False,  # but after each validation: max_steps may end an epoch without one
            enable_version_counter=False,
        )
        self._folder = folder.absolute()  # as Lightning's paths, which are compared before a file is removed

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Whether the metric is the best one; NaN never is, although Lightning would save it as the first one."""
        if current is not None and current.isnan():
            return False
        return bool(super().check_monitor_top_k(trainer, current))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score also after the run folder was moved, where Lightning would forget it."""

        def moved(path: str) -> str:
            return str(self._folder / Path(path).name) if path else path

        names = ("best_model_path", "kth_best_model_path", "last_model_path")
        paths = {name: moved(state_dict[name]) for name in names}
        best = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})


class CostMeter(Callback):
    """Measure what training takes."""

    def __init__(self, activations: FrozenActivations) -> None:
        self.seconds = 0.0  # wall-clock seconds from the start of the fit to its end, without encoding
        self.rows = 0  # training rows of all tasks in all processes
        self.last_step = 0  # the last optimizer step, from 0
        self._activations = activations
        self._start = 0.0
        self._before = 0.0

    @property
    def state_key(self) -> str:
        """The name of its state in checkpoints."""
        return "Cost"

    @property
    def encoding_seconds(self) -> float | None:
        """Seconds of encoding for frozen layers with an empty cache; None if unknown."""
        parts = self._activations.seconds_cold.values()
        return None if None in parts else sum(part for part in parts if part is not None)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; a resumed run continues from the time in its checkpoint."""
        self._start = self._now() - self._before

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the rows of a step."""
        self.rows += sum(map(len, batch.step_rows.values()))
        self.last_step = max(0, trainer.global_step - 1)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self.seconds = self._now() - self._start

    def state_dict(self) -> dict[str, Any]:
        """Return the counts so far."""
        encoding = {str(boundary): seconds for boundary, seconds in self._activations.seconds_cold.items()}
        seconds = self._now() - self._start
        return {"seconds": seconds, "rows": self.rows, "last_step": self.last_step, "encoding": encoding}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the counts."""
        self._before = state_dict["seconds"]
        self.rows = state_dict["rows"]
        self.last_step = state_dict["last_step"]
        for boundary, seconds in state_dict.get("encoding", {}).items():
            self._activations.seconds_cold.setdefault(int(boundary) if boundary.isdigit() else "embedding", seconds)

    def _now(self) -> float:
        """Return the time on a clock that is paused during encoding."""
        return time.perf_counter() - self._activations.seconds_spent


@dataclass(slots=True)
class _MeanLoss:
    """The mean of losses, kept on their device until it is needed.

    Losses that are not finite belong to steps that were left out, and do not count.
    """

    sum: torch.Tensor | float = 0.0
    steps: torch.Tensor | int = 0

    def add(self, trainer: Trainer, outputs: Any) -> None:
        """Add the loss of a batch, which Lightning has divided by the number of accumulated batches."""
        loss = (outputs["loss"] if isinstance(outputs, dict) else outputs).detach() * trainer.accumulate_grad_batches
        self.sum = self.sum + loss.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        self.steps = self.steps + loss.isfinite()

    def mean(self) -> float:
        """Return the mean; NaN without any loss."""
        steps = int(self.steps)
        return float(self.sum) / steps if steps else float("nan")


def task_scores(trainer: Trainer) -> dict[str, float]:
    """Return each task's macro-F1 of the last validation: ``val/<task>/macro_f1``."""
    names = {name: name.removeprefix("val/").removesuffix("/macro_f1") for name in trainer.callback_metrics}
    return {
        task: float(trainer.callback_metrics[name]) for name, task in names.items() if name == f"val/{task}/macro_f1"
    }


class StoppedEarly(Exception):  # noqa: N818 - no error
    """A training was stopped because it is not worth its time."""


class EarlyEnd(Callback):
    """Stop a training after a validation if it is not worth its time.

    Args:
        steps: The optimizer steps of the whole training.
        stops: Called once for each tenth of the training with its number (1 to 9) and macro-F1 on the validation rows,
            averaged over the tasks; True to stop. Trainings of different lengths are compared at the same tenth.
    """

    def __init__(self, steps: int, stops: Callable[[int, float], bool]) -> None:
        self._steps = steps
        self._stops = stops
        self._tenth = 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise `StoppedEarly` if the training is to stop."""
        tenth, scores = 10 * trainer.global_step // self._steps, task_scores(trainer)
        if trainer.sanity_checking or not scores or not self._tenth < tenth < 10:
            return
        self._tenth = tenth
        if self._stops(tenth, statistics.fmean(scores.values())):
            raise StoppedEarly


class History(Callback):
    """Collect the mean loss and the validation scores of each epoch in ``epochs``."""

    def __init__(self) -> None:
        self.epochs: list[EpochFigures] = []
        self._scores: dict[str, float] = {}
        self._losses = _MeanLoss()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Add the loss of a batch."""
        self._losses.add(trainer, outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep each task's macro-F1."""
        if not trainer.sanity_checking:
            self._scores = task_scores(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the mean loss and the scores of the epoch's last validation."""
        self.epochs.append(EpochFigures(trainer.current_epoch + 1, self._losses.mean(), self._scores))
        self._scores, self._losses = {}, _MeanLoss()

    def state_dict(self) -> dict[str, Any]:
        """Return the completed epochs and the values of the current one."""
        epochs = [asdict(epoch) for epoch in self.epochs]
        return {"epochs": epochs, "scores": dict(self._scores), **asdict(self._losses)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the saved state."""
        self.epochs = [EpochFigures(**epoch) for epoch in state_dict["epochs"]]
        self._scores = dict(state_dict["scores"])
        self._losses = _MeanLoss(state_dict["sum"], state_dict["steps"])


class UnfreezingLines(Callback):
    """Write a line when layers unfreeze, and when a resumed training starts.

    ``lines`` has one for each optimizer step (from 0) at which layers unfreeze, and for step 0.
    """

    def __init__(self, lines: Mapping[int, str], write: Callable[[str], None]) -> None:
        self._lines = dict(lines)
        self._write = write
        self._shown: int | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Write the line of the layers that are trained now, unless it is written already."""
        step = trainer.global_step
        start = max((start for start in self._lines if start <= step), default=None)
        if start is not None and start != self._shown:
            self._shown = start
            self._write(f"epoch {trainer.current_epoch + 1}, step {step + 1}: {self._lines[start]}")


class EpochLines(Callback):
    """Write a line per validation, and one for each epoch without any: loss, each task's macro-F1, time."""

    def __init__(self, tasks: tuple[str, ...], write: Callable[[str], None]) -> None:
        self._tasks = tasks
        self._write = write
        self._losses = _MeanLoss()
        self._written = False  # whether this epoch has a line
        self._start = 0.0
        self._before = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; a resumed run continues from the time in its checkpoint."""
        self._start = time.perf_counter() - self._before

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Add the loss of a batch."""
        self._losses.add(trainer, outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line of a validation."""
        if trainer.sanity_checking:
            return
        scores = task_scores(trainer)
        shown = ", ".join(f"{task} {scores[task]:.3f}" for task in self._tasks if task in scores)
        self._end_line(trainer, f"val macro-F1: {shown}  ")
        self._written = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line of an epoch that was not validated."""
        if not self._written:
            self._end_line(trainer, "")
        self._written = False

    def _end_line(self, trainer: Trainer, scores: str) -> None:
        """Write a line in the first process, and start a new mean in every process."""
        if trainer.is_global_zero:
            epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
            seconds = time.perf_counter() - self._start
            epoch = f"epoch {trainer.current_epoch + 1}/{epochs}"
            self._write(f"{epoch}  train loss {self._losses.mean():.3f}  {scores}({seconds:.0f} s)")
        self._losses = _MeanLoss()

    def state_dict(self) -> dict[str, Any]:
        """Return the time, and the losses since the last line."""
        seconds = time.perf_counter() - self._start
        return {"seconds": seconds, "written": self._written, **asdict(self._losses)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the saved state."""
        self._before = state_dict["seconds"]
        self._written = state_dict["written"]
        self._losses = _MeanLoss(state_dict["sum"], state_dict["steps"])
