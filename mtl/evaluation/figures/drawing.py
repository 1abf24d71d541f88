"""All pictures of a run: which there are, where they lie, and what a reader is told of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtl.evaluation.curves import EpochFigures
from mtl.evaluation.figures.class_bars import draw_class_bars
from mtl.evaluation.figures.confusion import draw_confusion
from mtl.evaluation.figures.reliability import Bin, draw_reliability
from mtl.evaluation.figures.training import draw_training
from mtl.evaluation.predictions import Predictions
from mtl.evaluation.summary import Picture, RunPictures, reported_split
from mtl.evaluation.task_report import TaskReport

FOLDER = "figures"
_BINS = 15


def draw_run(
    folder: Path,
    reports: Mapping[str, Mapping[str, TaskReport]],
    predictions: Mapping[str, Mapping[str, Predictions]],
    epochs: Sequence[EpochFigures],
) -> RunPictures:
    """Draw each task's pictures on the split that the report shows, and the training.

    Args:
        folder: The run folder.
        reports: The figures of each task and split.
        predictions: The predictions of each task and split.
        epochs: The figures of each epoch.

    Returns:
        The pictures, with paths from the run folder.
    """
    tasks = {}
    for task, splits in reports.items():
        split = reported_split(splits)
        if split is not None:
            tasks[task] = _draw_task(folder, f"{task}_{split}", splits[split], predictions[task][split])
    if not epochs:
        return RunPictures(tasks)
    training = f"{FOLDER}/training.svg"
    draw_training(folder / training, epochs)
    return RunPictures(tasks, Picture(training, "Training loss, and macro-F1 on validation, after each epoch"))


def _draw_task(folder: Path, name: str, report: TaskReport, predictions: Predictions) -> dict[str, Picture]:
    path = {kind: f"{FOLDER}/{name}_{kind}.svg" for kind in ("classes", "confusion", "reliability")}
    draw_class_bars(folder / path["classes"], report)
    draw_confusion(folder / path["confusion"], report.labels, report.confusion)
    draw_reliability(folder / path["reliability"], {"this model": _bins(predictions)})
    return {
        "classes": Picture(path["classes"], "F1, precision, recall and support of each class"),
        "confusion": Picture(path["confusion"], "Confusion matrix: colours by the share of the true class, counts"),
        "reliability": Picture(path["reliability"], "Share of rows predicted right over the confidence of the model"),
    }


@dataclass(frozen=True, slots=True)
class _Bin:
    lower: float
    upper: float
    count: int
    confidence: float
    accuracy: float


def _bins(predictions: Predictions) -> list[Bin]:
    """Return bins of equal width of the probability of the predicted class."""
    column = {name: at for at, name in enumerate(predictions.classes)}
    chosen = np.array([column[name] for name in predictions.predicted], dtype=np.int64)
    sure = predictions.probabilities[np.arange(len(chosen)), chosen]
    right = np.array([a == b for a, b in zip(predictions.labels, predictions.predicted, strict=True)], dtype=np.float64)
    edges = np.linspace(0, 1, _BINS + 1)
    places = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, _BINS - 1)
    count = np.bincount(places, minlength=_BINS)
    sums = [np.bincount(places, values, minlength=_BINS) / np.maximum(count, 1) for values in (sure, right)]
    columns = (edges[:-1], edges[1:], count, *sums)
    return [_Bin(*values) for values in zip(*(each.tolist() for each in columns), strict=True)]
