"""Callbacks: the best checkpoint, what a person reads while training runs, and what it costs."""

from __future__ import annotations

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
    """Keeps the weights of the best validation.

    Args:
        folder: Where the checkpoints are.
        monitor: The figure that is compared; larger is better.
    """

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
        self._folder = folder

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Whether the figure is the best one; NaN, which Lightning saves where nothing stands yet, never is."""
        if current is not None and current.isnan():
            return False
        return bool(super().check_monitor_top_k(trainer, current))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a saved state, also after the run folder was moved: Lightning would forget the best score then."""

        def moved(path: str) -> str:
            return str(self._folder / Path(path).name) if path else path

        best = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        super().load_state_dict(
            {
                **state_dict,
                **{name: moved(state_dict[name]) for name in paths},
                "best_k_models": best,
                "dirpath": self.dirpath,
            }
        )


class Cost(Callback):
    """Measures a training.

    Attributes:
        seconds: Wall-clock seconds from the start of the fit to its end, without encoding for frozen layers.
        rows: Training rows of all tasks that all processes went through.
        last_step: The last optimizer step (from 0).

    Args:
        activations: What frozen layers give; it measures the time that encoding takes.
    """

    def __init__(self, activations: FrozenActivations) -> None:
        self.seconds = 0.0
        self.rows = 0
        self.last_step = 0
        self._activations = activations
        self._start = 0.0
        self._before = 0.0

    @property
    def encoding_seconds(self) -> float | None:
        """What encoding for frozen layers takes with an empty cache; None where it is not known."""
        parts = self._activations.seconds_cold.values()
        return None if None in parts else sum(part for part in parts if part is not None)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, at what it showed when the checkpoint was written."""
        del trainer, pl_module
        self._start = self._now() - self._before

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the rows of a step."""
        del pl_module, outputs, batch_idx
        self.rows += sum(map(len, batch.step_rows.values()))
        self.last_step = max(0, trainer.global_step - 1)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        del trainer, pl_module
        self.seconds = self._now() - self._start

    def state_dict(self) -> dict[str, Any]:
        """Return what has been counted so far."""
        encoding = {str(boundary): seconds for boundary, seconds in self._activations.seconds_cold.items()}
        seconds = self._now() - self._start
        return {"seconds": seconds, "rows": self.rows, "last_step": self.last_step, "encoding": encoding}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on counting from what `state_dict` returned."""
        self._before = state_dict["seconds"]
        self.rows = state_dict["rows"]
        self.last_step = state_dict["last_step"]
        for boundary, seconds in state_dict.get("encoding", {}).items():
            self._activations.seconds_cold.setdefault(int(boundary) if boundary.isdigit() else "embedding", seconds)

    def _now(self) -> float:
        """Return the time on a clock that stands still during encoding."""
        return time.perf_counter() - self._activations.seconds_spent


@dataclass(slots=True)
class _MeanLoss:
    """The mean loss of the batches that were added, on their device until it is asked for.

    A loss that is not finite belongs to a step that was left out and does not count.

    Attributes:
        sum: The sum of the losses.
        steps: How many there were.
    """

    sum: torch.Tensor | float = 0.0
    steps: torch.Tensor | int = 0

    def add(self, trainer: Trainer, outputs: Any) -> None:
        """Add the loss of a batch, which Lightning divides by the batches of an optimizer step."""
        loss = (outputs["loss"] if isinstance(outputs, dict) else outputs).detach() * trainer.accumulate_grad_batches
        self.sum = self.sum + loss.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        self.steps = self.steps + loss.isfinite()

    def mean(self) -> float:
        """Return the mean; of none NaN."""
        steps = int(self.steps)
        return float(self.sum) / steps if steps else float("nan")


class History(Callback):
    """Keeps the figures of each epoch.

    Attributes:
        epochs: Them, in order.
    """

    def __init__(self) -> None:
        self.epochs: list[EpochFigures] = []
        self._scores: dict[str, float] = {}
        self._losses = _MeanLoss()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Add the loss of a batch."""
        del pl_module, batch, batch_idx
        self._losses.add(trainer, outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note each task's macro-F1."""
        del pl_module
        if not trainer.sanity_checking:
            figures = {tuple(name.split("/")): value for name, value in trainer.callback_metrics.items()}
            scores = {name[1]: value for name, value in figures.items() if name[::2] == ("val", "macro_f1")}
            self._scores = {task: float(value) for task, value in scores.items()}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the mean loss, and the figures of the epoch's last validation, which is over by now."""
        del pl_module
        self.epochs.append(EpochFigures(trainer.current_epoch + 1, self._losses.mean(), self._scores))
        self._scores, self._losses = {}, _MeanLoss()

    def state_dict(self) -> dict[str, Any]:
        """Return the epochs that are over, and the figures of the one that is not."""
        epochs = [asdict(each) for each in self.epochs]
        return {"epochs": epochs, "scores": dict(self._scores), **asdict(self._losses)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take what `state_dict` returned."""
        self.epochs = [EpochFigures(**each) for each in state_dict["epochs"]]
        self._scores = dict(state_dict["scores"])
        self._losses = _MeanLoss(state_dict["sum"], state_dict["steps"])


class StageLines(Callback):
    """Writes a line when a stage of unfreezing begins, and at the start of a training that goes on within one.

    Args:
        stages: What is said of each stage, by the optimizer step (from 0) that it begins with; the first one is 0.
        write: Where the lines go.
    """

    def __init__(self, stages: Mapping[int, str], write: Callable[[str], None]) -> None:
        self._stages = dict(stages)
        self._write = write
        self._shown: int | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Say what learns now, if that has changed."""
        del pl_module, batch, batch_idx
        step = trainer.global_step
        start = max((each for each in self._stages if each <= step), default=None)
        if start is not None and start != self._shown:
            self._shown = start
            self._write(f"epoch {trainer.current_epoch + 1}, step {step + 1}: {self._stages[start]}")


class EpochLines(Callback):
    """Writes one line per validation, and one for each epoch without any: loss, each task's macro-F1, time.

    Args:
        tasks: The tasks in the order to show.
        write: Where the lines go, `print` or a console's method.
    """

    def __init__(self, tasks: tuple[str, ...], write: Callable[[str], None]) -> None:
        self._tasks = tasks
        self._write = write
        self._losses = _MeanLoss()
        self._written = False  # a line in this epoch
        self._start = 0.0
        self._before = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, at what it showed when the checkpoint was written."""
        del trainer, pl_module
        self._start = time.perf_counter() - self._before

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Add the loss of a batch."""
        del pl_module, batch, batch_idx
        self._losses.add(trainer, outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line of a validation."""
        del pl_module
        if trainer.sanity_checking:
            return
        figures = trainer.callback_metrics
        scores = [f"{task} {figures[name]:.3f}" for task in self._tasks if (name := f"val/{task}/macro_f1") in figures]
        self._end_line(trainer, f"val macro-F1: {', '.join(scores)}  ")
        self._written = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line of an epoch that was not validated."""
        del pl_module
        if not self._written:
            self._end_line(trainer, "")
        self._written = False

    def _end_line(self, trainer: Trainer, scores: str) -> None:
        """Write a line in the first process, and begin with the losses of the next one in all of them."""
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
        """Take what `state_dict` returned."""
        self._before = state_dict["seconds"]
        self._written = state_dict["written"]
        self._losses = _MeanLoss(state_dict["sum"], state_dict["steps"])
