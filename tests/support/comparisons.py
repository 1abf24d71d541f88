"""Run folders as training leaves them, from nothing but true and predicted classes: what a comparison reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml

from mtl.evaluation.metrics import task_report
from mtl.evaluation.predictions import Predictions, predictions_path, write_predictions
from mtl.evaluation.run_metrics import Cost, RunMetrics, checksums, write_metrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mtl.evaluation.records import TaskReport

CLASSES = ("bad", "fine", "good")


def labels(count: int, classes: Sequence[str] = CLASSES) -> list[str]:
    """Return true classes in turn."""
    return [classes[at % len(classes)] for at in range(count)]


def answers(true: Sequence[str], wrong: Sequence[int], classes: Sequence[str] = CLASSES) -> list[str]:
    """Return the true classes, but for the next class at the places of ``wrong``."""
    found = list(true)
    for at in wrong:
        found[at] = classes[(classes.index(found[at]) + 1) % len(classes)]
    return found


def predictions(
    true: Sequence[str],
    predicted: Sequence[str],
    classes: Sequence[str] = CLASSES,
    texts: Sequence[str] | None = None,
    sure: float = 0.7,
) -> Predictions:
    """Return predictions whose predicted class has the probability ``sure``."""
    probabilities = np.full((len(true), len(classes)), (1 - sure) / max(len(classes) - 1, 1))
    for at, name in enumerate(predicted):
        probabilities[at, classes.index(name)] = sure
    texts = [f"sentence {at}" for at in range(len(true))] if texts is None else texts
    return Predictions(
        classes, texts, true, predicted, probabilities, [f"test.csv:{at + 2}" for at in range(len(true))]
    )


def report(predictions: Predictions) -> TaskReport:
    """Return the figures of predictions."""
    classes = predictions.classes
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    for true, predicted in zip(predictions.labels, predictions.predicted, strict=True):
        confusion[classes.index(true), classes.index(predicted)] += 1
    return task_report(confusion, classes)


def write_run(
    folder: Path,
    tasks: Mapping[str, Predictions],
    *,
    name: str = "freeze=none",
    seed: int | None = 1,
    seconds: float | None = 60.0,
    encoding: float | None = 0.0,
    parameters: int = 1000,
    training_rows: Mapping[str, Mapping[str, int]] | None = None,
    config: Mapping[str, Any] | None = None,
    choices: Mapping[str, str] | None = None,
    split: str = "test",
    validation: Mapping[str, Predictions] | None = None,
) -> Path:
    """Write the folder of a finished run; without ``validation`` it has no figures of validation rows."""
    reports = {}
    for task, each in tasks.items():
        write_predictions(predictions_path(folder, task, split), each)
        reports[task] = {split: report(each)}
        if validation is not None:
            reports[task]["val"] = report(validation[task])
    freeze = name.removeprefix("freeze=")
    values = {"seed": seed, "freeze": {"backbone": freeze}, **(config or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    run: dict[str, Any] = {
        "name": name,
        "seed": seed,
        "choices": {"freeze": freeze, **(choices or {})},
        "backbone": "tiny",
    }
    if training_rows is not None:
        run["training_rows"] = training_rows
    cost = Cost(seconds, parameters, 1_000_000, 120.0, 2**30, encoding_seconds=encoding)
    write_metrics(folder / "metrics.json", RunMetrics(reports, cost, run, files=checksums(folder)))
    return folder


def write_job(folder: Path, log: str = "", overrides: Sequence[str] = ()) -> Path:
    """Write the folder of a job that left no figures."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)), encoding="utf-8")
    (folder / "train.log").write_text(log, encoding="utf-8")
    return folder
