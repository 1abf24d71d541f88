"""The charts of a run: on its page, and as SVG files beside its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl.base import formatting
from mtl.evaluation.calibration import ece
from mtl.evaluation.records import CalibrationReport, EpochFigures, ReliabilityBin, Reports, TaskReport
from mtl.evaluation.run_summary import RARE_SUPPORT, Picture, others_in_words, reported_split, weakest
from mtl.reporting import charts
from mtl.reporting.page import Chart
from mtl.reporting.svg import write_svg

FOLDER = "figures"
MOST_CLASSES = 15
"""Bars of more classes are too many for a page: it shows those with the lowest F1."""
MOST_IN_PICTURE = 40
"""The same for the SVG file, which stands alone."""
MOST_IN_MATRIX = 30
_SCORES = {"precision": "precision", "recall": "recall", "F1": "f1"}


def draw_run(folder: Path, reports: Reports, epochs: Sequence[EpochFigures]) -> dict[str, Picture]:
    """Write the SVG files of each task, for the split that the report shows, and of the training, into a run folder.

    The pictures are called ``training`` and ``<task>_<split>_<kind>``: ``classes``, ``confusion`` and ``reliability``.
    """
    pictures = {}
    for task, splits in reports.items():
        if (split := reported_split(splits)) is not None:
            for kind, (chart, caption) in _of_task(splits[split]).items():
                picture = Picture(f"{FOLDER}/{task}_{split}_{kind}.svg", caption)
                write_svg(folder / picture.path, [chart])
                pictures[f"{task}_{split}_{kind}"] = picture
    if epochs:
        picture = Picture(f"{FOLDER}/training.svg", "Training loss, and macro-F1 on validation, after each epoch")
        write_svg(folder / picture.path, list(training(epochs)), columns=2, width=400)
        pictures["training"] = picture
    return pictures


def _of_task(report: TaskReport) -> dict[str, tuple[Chart, str]]:
    """Return chart and caption of each kind."""
    drawn = {
        "classes": (class_bars(report, MOST_IN_PICTURE), "F1, precision, recall and support of each class"),
        "confusion": (confusion(report), "Confusion matrix: colours by the share of the true class, counts"),
    }
    if report.calibration is not None:
        caption = "Share of rows predicted right over the confidence of the model"
        drawn["reliability"] = (reliability(calibration_bins(report.calibration)), caption)
    return drawn


def class_bars(report: TaskReport, most: int = MOST_CLASSES, identity: str = "classes") -> Chart:
    """Return precision, recall and F1 of the ``most`` classes with the lowest F1, the lowest first."""
    classes = weakest(report.per_class, most)
    rows = [
        {"class": label, "name": name, "value": value, "shown": formatting.score(value)}
        for label in classes
        for name, field in _SCORES.items()
        for value in [getattr(report.per_class[label], field)]
    ]
    supports = {label: scores.support for label, scores in report.per_class.items()}
    others = others_in_words(report.per_class, classes)
    summary = f"Lowest F1 first, with the number of rows of each class. Macro-F1 {report.macro_f1:.3f}."
    summary += f" Not shown: {others}." if others else ""
    return charts.class_bars(identity, "Each class", rows, classes, list(_SCORES), summary, "share", supports)


def confusion(report: TaskReport) -> Chart:
    """Return the confusion matrix of all classes, or of those with the most wrong rows."""
    counts = np.array(report.confusion)
    chosen = most_confused(counts)
    summary = "A row for each true class, a column for each predicted one; colours by the share of the true class."
    if len(chosen) < len(counts):
        summary += f" The {len(chosen)} of {len(counts)} classes with the most wrong rows."
    labels = [report.labels[at] for at in chosen]
    cells = counts[np.ix_(chosen, chosen)].tolist()
    return charts.heat_map("confusion", "Confusion matrix", labels, cells, counts[chosen].sum(axis=1).tolist(), summary)


def most_confused(counts: NDArray[np.int64], most: int = MOST_IN_MATRIX) -> NDArray[np.int64]:
    """Return the classes of a confusion matrix ``(C, C)`` to show, ascending: all, or those with the most wrong rows.

    Wrong are the rows of a class that were taken for another one, and those of others that were taken for it.
    """
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    return np.sort(np.argsort(-wrong, kind="stable")[:most])


def reliability(lines: Mapping[str, list[ReliabilityBin]], identity: str = "reliability") -> Chart:
    """Return accuracy over confidence, a line for each set of bins.

    Guo et al., On Calibration of Modern Neural Networks (2017), https://arxiv.org/abs/1706.04599, figure 1.
    """
    errors = ", ".join(f"{ece(bins):.3f}" + (f" {name}" if len(lines) > 1 else "") for name, bins in lines.items())
    summary = f"Below the dashed line the model is overconfident. Expected calibration error: {errors}."
    rows = [point for name, bins in lines.items() for point in charts.points(name, bins)]
    if any(row["few"] for row in rows):
        summary += f" Bins of fewer than {RARE_SUPPORT} rows are faint, with their number of rows."
    return charts.reliability(identity, "Reliability", rows, list(lines), summary)


def calibration_bins(calibration: CalibrationReport) -> dict[str, list[ReliabilityBin]]:
    """Return the bins before and after calibration, or one set where it changed nothing."""
    if calibration.bins == calibration.bins_before:
        return {"this run": calibration.bins}
    return {"before calibration": calibration.bins_before, "calibrated": calibration.bins}


def training(epochs: Sequence[EpochFigures]) -> Iterator[Chart]:
    """Yield the training loss and, where there was validation, the macro-F1 of each task with its best epoch."""
    losses = [{"name": "all tasks", "x": figures.epoch, "y": figures.train_loss} for figures in epochs]
    yield charts.curves("loss", "Training loss", losses, ["all tasks"], "epoch", "loss", "")
    scores: dict[str, list[tuple[int, float]]] = {}
    for figures in epochs:
        for task, score in figures.val_macro_f1.items():
            scores.setdefault(task, []).append((figures.epoch, score))
    if not scores:
        return
    best = {task: max(points, key=lambda point: point[1]) for task, points in scores.items()}
    summary = "; ".join(f"{task}: best {score:.3f} in epoch {epoch}" for task, (epoch, score) in best.items())
    rows = [{"name": task, "x": epoch, "y": score} for task, points in scores.items() for epoch, score in points]
    yield charts.curves("macro-f1", "Validation macro-F1", rows, list(scores), "epoch", "macro-F1", f"{summary}.")
