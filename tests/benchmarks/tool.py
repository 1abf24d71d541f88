"""Our side of a comparison: the same code that `python -m mtl.train` runs, in this process and without its output."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import lightning.pytorch as pl

from mtl.activations.encoding import native_bf16
from mtl.model.sources import backbone_spec, locate
from mtl.training import trainer as trainers
from mtl.training.run import train
from tests.benchmarks.machine import device
from tests.benchmarks.timing import synchronise
from tests.support.configs import compose_config

UNOBSERVED = [
    "callbacks.progress=false",
    "callbacks.keep_best=false",
    "callbacks.save_last=false",
    "++trainer.limit_val_batches=0",
    "logger=none",
]
"""Leave out what a bare loop does not do either: validation, checkpoints, curves."""


@dataclass(frozen=True, slots=True)
class ToolRun:
    """A finished run.

    Attributes:
        seconds: Wall-clock time of everything: data, weights, training, evaluation, files.
        train_seconds: That of training alone; 0 where nothing was trained.
        rows: Training rows that it went through.
        accuracy: Of each task on test.
        macro_f1: Of each task on test.
    """

    seconds: float
    train_seconds: float
    rows: int
    accuracy: dict[str, float]
    macro_f1: dict[str, float]


def run(overrides: Sequence[str]) -> ToolRun:
    """Train with the given arguments in a temporary run folder."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            train(compose_config(overrides), Path(folder))
        duration = time.perf_counter() - start
        metrics = json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))
    return _tool_run(duration, metrics)


def _tool_run(duration: float, metrics: dict[str, Any]) -> ToolRun:
    cost = metrics["cost"]
    test = {task: splits["test"] for task, splits in metrics["tasks"].items()}
    trained = cost["train_seconds"] or 0.0
    return ToolRun(
        seconds=duration,
        train_seconds=trained,
        rows=round((cost["total_seconds"] or 0.0) * (cost["sentences_per_second"] or 0.0)),
        accuracy={task: report["accuracy"] for task, report in test.items()},
        macro_f1={task: report["macro_f1"] for task, report in test.items()},
    )


def auto_precision() -> Literal["fp32", "bf16"]:
    """Return what ``trainer.precision=auto`` chooses here."""
    return "bf16" if native_bf16(device()) else "fp32"


def checkpoint(name: str) -> Path:
    """Return the folder of a backbone that needs no hub."""
    return locate(backbone_spec(name))


def add_backbone(options: argparse.ArgumentParser) -> None:
    """Add the option that chooses the encoder of both sides."""
    options.add_argument("--backbone", choices=("minilm", "mpnet"), default="minilm", help="default: %(default)s")


@contextlib.contextmanager
def fresh_cache() -> Iterator[Path]:
    """An empty cache folder for runs inside the block, so that none finds what an earlier one has left."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"MTL_CACHE_DIR": folder}):
        yield Path(folder)


class EpochClock(pl.Callback):
    """Keeps the seconds of the training steps of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        synchronise()
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        synchronise()
        self.seconds.append(time.perf_counter() - self._start)


@contextlib.contextmanager
def epoch_clock() -> Iterator[EpochClock]:
    """A clock that goes with every run inside the block."""
    clock = EpochClock()
    original = trainers.make_trainer

    def with_clock(*arguments: Any, **named: Any) -> pl.Trainer:
        trainer = original(*arguments, **named)
        trainer.callbacks.append(clock)  # type: ignore[attr-defined]
        return trainer

    with mock.patch.object(trainers, "make_trainer", with_clock):
        yield clock
