"""Whole runs in this process: small files to train on, the run itself, and a look into its training."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback

from mtl.config.command_line import check_command_line
from mtl.training import trainer as trainers
from mtl.training.run import train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    import pytest
    from lightning.pytorch import Trainer

    from mtl.config.fields import Config
    from mtl.data.batch import Batch
    from mtl.evaluation.scoring import Scored
    from mtl.training.module import MultiTaskModule
    from mtl.training.plan import RunPlan

WORDS = {
    "classification": {"price": "cheap money worth", "screen": "watch look picture", "delivery": "late order box"},
    "sentiment": {"good": "great love perfect", "bad": "awful broke poor"},
    "stars": {"1": "worst", "2": "bad", "3": "fine", "4": "nice", "5": "best"},
}
"""For each task and label some words that give it away."""
_FILLING = ("phone", "very", "day", "my", "for", "just", "one", "read", "still", "house", "movie", "week", "time")


def rows(task: str, count: int, start: int = 0) -> list[tuple[str, str]]:
    """Return sentences that all differ, ``count`` of each label."""
    found = []
    for number in range(start, start + count):
        for at, (label, words) in enumerate(WORDS[task].items()):
            some = [_FILLING[(number * step + at) % len(_FILLING)] for step in (1, 3, 7)]
            word = words.split()[number % len(words.split())]
            found.append((" ".join([*some[: 1 + number % 3], word, *some[2:], str(number)]), label))
    return found


def write_csv(path: Path, content: Iterable[tuple[str, str]]) -> Path:
    """Write texts with their labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *content])
    return path


def data(
    folder: Path, tasks: Sequence[str] = ("classification", "sentiment"), train: int = 12, other: int = 4
) -> list[str]:
    """Write files of tasks of `WORDS` and return the overrides that name them.

    Args:
        folder: Where to write.
        tasks: Which tasks.
        train: Training rows of each label.
        other: Validation rows of each label, and test rows.
    """
    counts = {"train": (0, train), "val": (train, other), "test": (train + other, other)}
    overrides = ["data=files"]
    for task in tasks:
        for split, (start, count) in counts.items():
            path = write_csv(folder / f"{task}_{split}.csv", rows(task, count, start))
            overrides.append(f"data.tasks.{task}.{split}={path}")
    return overrides


def config(*overrides: str) -> Config:
    """Return the configuration of a command line; by default tiny, on the CPU in fp32, no curves, no pictures."""
    defaults = ["backbone=tiny", "trainer=cpu", "trainer.precision=32-true", "logger=none", "data.batch_size=8"]
    defaults += ["evaluation.figures=false"]  # drawing takes longer than many a run here
    chosen = {each.partition("=")[0]: each for each in [*defaults, *overrides]}
    checked = check_command_line(list(chosen.values())).first
    assert checked is not None
    return checked


def run(folder: Path, *overrides: str) -> dict[str, dict[str, Scored]]:
    """Train as `config` says."""
    chosen = config(*overrides)
    return train(chosen, folder, {"freeze": chosen.freeze.backbone})


@dataclass
class Probe(Callback):
    """Takes part in the training of `run` once `probed` has put it there.

    Attributes:
        before_batch: Called with the module and the batch before each step.
        before_step: Called with the module before each optimizer step.
        after_batch: Called with the module and the batch after each step.
        on_start: Called with the module before the first step.
        optimizer_steps: The optimizer steps that were done.
        figures: What has been logged up to each validation.
    """

    before_batch: Callable[[MultiTaskModule, Batch], None] | None = None
    before_step: Callable[[MultiTaskModule], None] | None = None
    after_batch: Callable[[MultiTaskModule, Batch], None] | None = None
    on_start: Callable[[MultiTaskModule], None] | None = None
    optimizer_steps: int = 0
    figures: list[dict[str, float]] = field(default_factory=list)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if self.on_start:
            self.on_start(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.before_batch:
            self.before_batch(pl_module, batch)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        self.optimizer_steps += 1
        if self.before_step:
            self.before_step(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.after_batch:
            self.after_batch(pl_module, batch)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.figures.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def probed(monkeypatch: pytest.MonkeyPatch, probe: Probe) -> Probe:
    """Put the probe into the training of every `run` from now on."""
    original = trainers.make_trainer

    def with_probe(plan: RunPlan, callbacks: Sequence[Callback], **rest: Any) -> Trainer:
        return original(plan, [*callbacks, probe], **rest)

    monkeypatch.setattr(trainers, "make_trainer", with_probe)
    return probe
