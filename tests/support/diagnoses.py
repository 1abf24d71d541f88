"""A small diagnosis with figures of one's choice, for what is written and said of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from mtl.diagnosis.data_need import ClassNeed
from mtl.diagnosis.suspects import rank_suspects
from mtl.diagnosis.task import Duplicate, Row, TaskDiagnosis
from mtl.evaluation.metrics import task_report
from mtl.evaluation.predictions import Predictions

if TYPE_CHECKING:
    from collections.abc import Sequence

LABELS = ("good", "bad")
TEXTS = ("Great.", "=cmd()|x", "Broke at once", "Fine", "Awful", "Very good")


def need(
    label: str,
    gain: float,
    low: float,
    high: float,
    best: float = 0.5,
    rows: int = 40,
    *,
    supported: bool | None = None,
) -> ClassNeed:
    """Return what 50 more rows of a class would bring; the evidence supports it by default where ``low`` is above 0."""
    band = np.array([[0.5, 0.6, 0.7]] * 3)
    shown = low > 0 if supported is None else supported
    counts = np.array([16.0, 26.0, 32.0])
    return ClassNeed(label, rows, rows + 10, gain, low, high, shown, best, 2 * gain, counts, band, band)


def diagnosis(
    needs: Sequence[ClassNeed] = (), duplicates: Sequence[Duplicate] = (), *, clean: bool = False
) -> TaskDiagnosis:
    """Return a diagnosis of 6 rows, of which the second and the fourth look wrong; ``clean``: none does."""
    labels = np.array([0, 0, 1, 0, 1, 0])
    likely = labels if clean else np.array([0, 1, 1, 1, 1, 0])
    probabilities = np.where(np.arange(2) == likely[:, None], 0.9, 0.1)
    confusion = np.zeros((2, 2), dtype=np.int64)
    np.add.at(confusion, (labels, likely), 1)
    unseen = Predictions(
        classes=LABELS,
        texts=TEXTS,
        labels=[LABELS[label] for label in labels],
        predicted=[LABELS[label] for label in likely],
        probabilities=probabilities,
        sources=[f"a.csv:{line}" for line in range(2, 8)],
    )
    return TaskDiagnosis(
        task="mood",
        sizes={"train": 6, "val": 2, "test": 2},
        more=50,
        needs=list(needs),
        unseen=unseen,
        report=task_report(torch.from_numpy(confusion), LABELS),
        suspects=rank_suspects(probabilities, labels),
        duplicates=list(duplicates),
    )


def duplicate(split: str, label: str) -> Duplicate:
    """Return a pair of a training row labelled ``good`` and one of a split with a label."""
    return Duplicate(
        Row("train", "Great.", "good", "a.csv:2"), Row(split, "=Great", label, f"{split}.csv:3"), 0.97, True
    )
