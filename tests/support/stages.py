"""A task with a tree: sentences whose labels fall into two coarse classes, and the command lines of its heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.runs import data

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TREE = "{bad: [delivery, price], good: [screen]}"
"""A tree over the labels of the task classification, whose coarse classes are the labels of sentiment."""


def head(*settings: str, task: str = "classification") -> str:
    """Return the override for a multi-stage head."""
    return f"heads.tasks.{task}={{{', '.join(['kind: multi_stage', 'dropout: 0.1', *settings])}}}"


OWN = head(f"tree: {TREE}")
BORROWED = head(f"tree: {TREE}", "first_stage: {task: sentiment}")


def staged(folder: Path, override: str = OWN, tasks: Sequence[str] = ("classification", "sentiment")) -> list[str]:
    """Write the data and return the overrides of a short training at high rates."""
    fast = ["learning_rates=uniform", "learning_rates.heads=0.01", "learning_rates.backbone=0.003"]
    return [*data(folder, tasks), *fast, override, "trainer.max_epochs=2"]
