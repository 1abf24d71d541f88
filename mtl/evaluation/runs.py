"""Finished runs: find them under folders, and read their configuration, figures, predictions and curves."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl.base.errors import DataError, Problem
from mtl.base.files import read_yaml
from mtl.evaluation.predictions import Predictions, predictions_path, read_predictions
from mtl.evaluation.records import TaskReport
from mtl.evaluation.run_metrics import RunMetrics, check_file, read_metrics

CURVES = Path("logs") / "metrics.csv"


def read_curves(run: str | Path) -> dict[str, list[tuple[float, float]]]:
    """Return for each logged figure its values by epoch, counted from 1; training losses as their mean in the epoch.

    A run without such a log has no curves; a cell that cannot be read, as a killed run may leave it, is passed over.

    Args:
        run: The run folder.
    """
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    try:
        with (Path(run) / CURVES).open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                epoch = _number(line.pop("epoch", None))
                for name, cell in line.items():
                    value = _number(cell)
                    if epoch is not None and value is not None and name != "step":
                        found[name][epoch + 1].append(value)
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
    return {
        name: [(epoch, sum(values) / len(values)) for epoch, values in sorted(points.items())]
        for name, points in found.items()
    }


def _number(cell: str | None) -> float | None:
    try:
        return float(cell) if cell else None
    except (TypeError, ValueError):
        return None


METRICS, CONFIG, LOG = "metrics.json", "config.yaml", "train.log"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A job folder without figures.

    Attributes:
        folder: Where it is.
        overrides: What its command line asked for, as far as it is known.
        reason: What its log says last; empty if it says nothing.
        failed: Whether the log tells of a failure; otherwise the job was stopped, or still runs.
    """

    folder: Path
    overrides: tuple[str, ...]
    reason: str
    failed: bool


def find(folders: Iterable[str | Path]) -> tuple[list[Path], list[Unfinished]]:
    """Return the run folders at or under ``folders``, each once, and the jobs that have not finished.

    A run has ``metrics.json`` and ``config.yaml``. A folder that only has ``.hydra``, ``config.yaml`` or ``train.log``
    is a job that has not finished. Nothing is looked for inside either.

    Args:
        folders: Run folders, multirun folders, or folders above them.

    Raises:
        DataError: Folders that do not exist (all named), or no run is there at all.
    """
    given = list(dict.fromkeys(Path(folder) for folder in folders))
    expected = "a run folder, the folder of a multirun, or one above them"
    missing = [Problem(str(folder), "no such folder", expected) for folder in given if not folder.is_dir()]
    if missing:
        raise DataError(missing)
    jobs = {job.resolve(): job for folder in given for job in _jobs(folder)}
    runs = [job for job in jobs.values() if _finished(job)]
    unfinished = [_unfinished(job) for job in jobs.values() if not _finished(job)]
    if not runs:
        found = f"{len(unfinished)} jobs, none of them finished" if unfinished else "no run"
        place = ", ".join(map(str, given))
        raise DataError(
            Problem(place, found, f"runs: folders with {METRICS} and {CONFIG}", "train first, then compare")
        )
    return runs, unfinished


def _jobs(folder: Path) -> Iterator[Path]:
    for path, names, files in os.walk(folder):
        names.sort(key=lambda name: (len(name), name))  # jobs are numbered: 2 before 10
        here = Path(path)
        is_sweep = "multirun.yaml" in files
        if _finished(here) or (not is_sweep and (".hydra" in names or CONFIG in files or LOG in files)):
            names.clear()
            yield here


def _finished(job: Path) -> bool:
    return (job / METRICS).is_file() and (job / CONFIG).is_file()


def _unfinished(job: Path) -> Unfinished:
    lines = _text(job / LOG).splitlines()
    mark = next((at for at, line in enumerate(lines) if "this job failed" in line or "Traceback" in line), None)
    told = [line.strip() for line in (lines if mark is None else lines[mark + 1 :]) if line.strip()]
    reason = " ".join(told[:4]) if mark is not None else (told[-1] if told else "")
    return Unfinished(job, _overrides(job), reason, failed=mark is not None)


def _overrides(job: Path) -> tuple[str, ...]:
    try:
        values = read_yaml(job / ".hydra" / "overrides.yaml")
    except (OSError, ValueError):
        return ()
    return tuple(map(str, values)) if isinstance(values, list) else ()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@dataclass(frozen=True)
class Outcomes:
    """One run's predictions of one task on the rows it was tested on.

    Attributes:
        split: Which rows: ``test``, or ``val`` where there are no test rows.
        predictions: What the run wrote, ``N`` rows and ``C`` classes.
    """

    split: str
    predictions: Predictions

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The true classes as places in the list of classes, shape ``(N,)``."""
        return _codes(self.predictions.labels, self.predictions.classes)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """The predicted classes as places in the list of classes, shape ``(N,)``."""
        return _codes(self.predictions.predicted, self.predictions.classes)

    @cached_property
    def rows(self) -> str:
        """A checksum of texts, labels and classes in their order: equal where two runs saw the same rows."""
        content = json.dumps([list(each) for each in (self.predictions.texts, self.predictions.labels)])
        return hashlib.sha256(content.encode() + json.dumps(sorted(self.predictions.classes)).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Record:
    """A finished run.

    Attributes:
        folder: Its folder.
        config: Its configuration, plain.
        metrics: Its figures.
        outcomes: For each task its predictions on the test rows.
        retention: Spearman correlation on sentence pairs before and after, if it was measured.
        calibration: For each task the expected calibration error after calibration, if it was measured.
    """

    folder: Path
    config: Mapping[str, Any]
    metrics: RunMetrics
    outcomes: Mapping[str, Outcomes]
    retention: tuple[float, float] | None = None
    calibration: Mapping[str, float] | None = None

    @property
    def name(self) -> str:
        """What was run, in a word or two: the experiment or the freeze scenario."""
        return str(self.metrics.run.get("name") or self.folder.name)

    @property
    def seed(self) -> int | None:
        """The seed of the run."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def choices(self) -> dict[str, str]:
        """The choice made in each configuration group."""
        choices = self.metrics.run.get("choices")
        return {str(group): str(choice) for group, choice in choices.items()} if isinstance(choices, dict) else {}

    @property
    def training_rows(self) -> dict[str, dict[str, int]]:
        """For each task the training rows of each label; empty where the run does not tell."""
        rows = self.metrics.run.get("training_rows")
        if not isinstance(rows, dict) or not all(isinstance(counts, dict) for counts in rows.values()):
            return {}
        return {task: {str(label): int(count) for label, count in counts.items()} for task, counts in rows.items()}

    @property
    def size(self) -> int | None:
        """The training rows of all tasks together, or None where the run does not tell."""
        return sum(sum(counts.values()) for counts in self.training_rows.values()) or None

    def report(self, task: str) -> TaskReport:
        """Return the figures of a task on the rows it was tested on."""
        return self.metrics.tasks[task][self.outcomes[task].split]

    @property
    def alone(self) -> str | None:
        """The task that was trained alone, if that is what the run did."""
        task = self.config.get("task")
        return str(task) if task is not None and list(self.outcomes) == [task] else None


def read_record(folder: Path, metrics: RunMetrics | None = None) -> Record:
    """Read a finished run.

    Args:
        folder: Its folder.
        metrics: Its figures where they are at hand; by default they are read from its ``metrics.json``.

    Raises:
        DataError: Its configuration, its figures or its predictions cannot be read (all problems of a file).
    """
    metrics = read_metrics(folder / METRICS) if metrics is None else metrics
    splits = {task: _tested(found) for task, found in metrics.tasks.items() if found}
    if not splits:
        raise DataError(Problem(f"{folder / METRICS}: tasks", "no figures of any task", "a task with test or val"))
    outcomes = {task: _outcomes(folder, task, split, metrics) for task, split in splits.items()}
    kept = None if metrics.retention is None else (metrics.retention.before, metrics.retention.after)
    return Record(folder, read_plain_config(folder), metrics, outcomes, kept, _calibration(metrics, splits))


def _outcomes(folder: Path, task: str, split: str, metrics: RunMetrics) -> Outcomes:
    path = predictions_path(folder, task, split)
    check_file(folder, path, metrics.files)
    return Outcomes(split, read_predictions(path))


def read_plain_config(folder: Path) -> dict[str, Any]:
    """Return the configuration that a run has kept, as plain values that need not fit today's schema.

    Raises:
        DataError: It cannot be read or is no mapping.
    """
    path = folder / CONFIG
    try:
        values = read_yaml(path)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise DataError(Problem(str(path), f"not readable: {first}", "the configuration of a run")) from None
    if not isinstance(values, dict):
        raise DataError(
            Problem(str(path), f"a {type(values).__name__}", "the configuration of a run: keys with values")
        )
    return values


def _tested(splits: Mapping[str, TaskReport]) -> str:
    return "test" if "test" in splits else next(iter(splits))


def _calibration(metrics: RunMetrics, splits: Mapping[str, str]) -> dict[str, float]:
    """Return the expected calibration error of each task that was calibrated; a run need not be."""
    reports = {task: metrics.tasks[task][split].calibration for task, split in splits.items()}
    return {task: report.after.ece for task, report in reports.items() if report is not None}


def _codes(names: Any, classes: Any) -> NDArray[np.int64]:
    place = {name: at for at, name in enumerate(sorted(classes))}
    return np.array([place[name] for name in names], dtype=np.int64)
