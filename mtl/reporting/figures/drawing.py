"""All pictures of a run: which there are, where they lie, and what a reader is told of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mtl.evaluation.records import CalibrationReport, EpochFigures, ReliabilityBin, TaskReport
from mtl.evaluation.run_summary import Picture, RunPictures, reported_split
from mtl.reporting.figures.class_bars import draw_class_bars
from mtl.reporting.figures.confusion import draw_confusion
from mtl.reporting.figures.reliability import draw_reliability
from mtl.reporting.figures.training import draw_training

FOLDER = "figures"


def draw_run(
    folder: Path,
    reports: Mapping[str, Mapping[str, TaskReport]],
    epochs: Sequence[EpochFigures],
) -> RunPictures:
    """Draw each task's pictures on the split that the report shows, and the training.

    Args:
        folder: The run folder.
        reports: The figures of each task and split.
        epochs: The figures of each epoch.

    Returns:
        The pictures, with paths from the run folder.
    """
    tasks = {}
    for task, splits in reports.items():
        split = reported_split(splits)
        if split is not None:
            tasks[task] = _draw_task(folder, f"{task}_{split}", splits[split])
    if not epochs:
        return RunPictures(tasks)
    training = f"{FOLDER}/training.svg"
    draw_training(folder / training, epochs)
    return RunPictures(tasks, Picture(training, "Training loss, and macro-F1 on validation, after each epoch"))


def _draw_task(folder: Path, name: str, report: TaskReport) -> dict[str, Picture]:
    path = {kind: f"{FOLDER}/{name}_{kind}.svg" for kind in ("classes", "confusion", "reliability")}
    draw_class_bars(folder / path["classes"], report)
    draw_confusion(folder / path["confusion"], report.labels, report.confusion)
    found = {
        "classes": Picture(path["classes"], "F1, precision, recall and support of each class"),
        "confusion": Picture(path["confusion"], "Confusion matrix: colours by the share of the true class, counts"),
    }
    if report.calibration is None:
        return found
    draw_reliability(folder / path["reliability"], _reliability(report.calibration))
    said = "Share of rows predicted right over the confidence of the model"
    return {**found, "reliability": Picture(path["reliability"], said)}


def _reliability(calibration: CalibrationReport) -> dict[str, list[ReliabilityBin]]:
    """Return the bins to draw by name; one set where calibration changed nothing."""
    if calibration.bins == calibration.bins_before:
        return {"this model": calibration.bins}
    return {"before calibration": calibration.bins_before, "calibrated": calibration.bins}
