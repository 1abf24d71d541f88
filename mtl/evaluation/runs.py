"""Finished runs: find them under folders, and read their configuration, metrics, predictions and curves."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mtl.base import schema
from mtl.base.errors import DataError, Problem
from mtl.base.files import not_pipe, read_yaml
from mtl.base.run_folder import CONFIG, METRICS
from mtl.evaluation.predictions import Predictions, predictions_path, read_predictions
from mtl.evaluation.records import Natural, TaskReport
from mtl.evaluation.run_metrics import RunMetrics, check_file, read_metrics
from mtl.evaluation.run_summary import reported_split

LOG = "train.log"
CURVES = Path("logs") / "metrics.csv"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A job folder without ``metrics.json``."""

    folder: Path
    overrides: tuple[str, ...]  # the overrides of its command line, as far as they are known
    reason: str  # the end of its log, or what follows the first error in it; may be empty
    failed: bool  # whether the log reports a failure; otherwise the job was stopped, or is still running


def find(folders: Iterable[str | Path]) -> tuple[list[Path], list[Unfinished]]:
    """Return the run folders at or under ``folders``, each once, and the jobs that have not finished.

    A run has ``metrics.json`` and ``config.yaml``. A folder that only has ``.hydra``, ``config.yaml`` or ``train.log``
    is a job that has not finished. Folders below a run or a job are not searched.

    Raises:
        DataError: Folders that do not exist (all named), or there is no run at all.
    """
    paths = list(dict.fromkeys(Path(folder) for folder in folders))
    expected = "a run folder, the folder of a multirun, or one above them"
    missing = [Problem(str(folder), "no such folder", expected) for folder in paths if not folder.is_dir()]
    if missing:
        raise DataError(missing)
    jobs = {job.resolve(): job for folder in paths for job in _jobs(folder)}
    runs = [job for job in jobs.values() if _finished(job)]
    unfinished = [_unfinished(job) for job in jobs.values() if not _finished(job)]
    if not runs:
        found = f"{len(unfinished)} jobs, none of them finished" if unfinished else "no run"
        place = ", ".join(map(str, paths))
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
    texts = [line.strip() for line in (lines if mark is None else lines[mark + 1 :]) if line.strip()]
    reason = " ".join(texts[-1:] if mark is None else texts[:4])
    return Unfinished(job, _overrides(job), reason, failed=mark is not None)


def _overrides(job: Path) -> tuple[str, ...]:
    try:
        values = read_yaml(job / ".hydra" / "overrides.yaml")
    except (OSError, ValueError):
        return ()
    return tuple(map(str, values)) if isinstance(values, list) else ()


def _text(path: Path) -> str:
    try:
        return not_pipe(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@dataclass(frozen=True)
class RunPredictions:
    """One run's predictions of one task on its test rows."""

    split: str  # ``test``, or ``val`` where there are no test rows
    predictions: Predictions

    @cached_property
    def rows(self) -> str:
        """A checksum of texts, labels and classes in their order: equal where two runs were tested on the same rows."""
        content = json.dumps([list(self.predictions.texts), list(self.predictions.labels)])
        return hashlib.sha256(content.encode() + json.dumps(sorted(self.predictions.classes)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of `RunMetrics.run` that a comparison uses; runs of older versions may lack them."""

    name: str = ""  # what was run: the experiment or the freeze scenario
    choices: Mapping[str, str] = field(default_factory=dict)  # by configuration group
    # By task and label
    training_rows: Mapping[str, Mapping[str, Natural]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Record:
    """A finished run."""

    folder: Path
    config: Mapping[str, Any]  # its configuration, plain
    metrics: RunMetrics
    outcomes: Mapping[str, RunPredictions]  # for each task
    facts: Facts = field(default_factory=Facts)

    @property
    def name(self) -> str:
        """The experiment or the freeze scenario; the name of the folder where the run does not record it."""
        return self.facts.name or self.folder.name

    @property
    def seed(self) -> int | None:
        """The seed of the run."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def size(self) -> int | None:
        """The training rows of all tasks together, or None where the run does not record them."""
        return sum(sum(counts.values()) for counts in self.facts.training_rows.values()) or None

    def report(self, task: str) -> TaskReport:
        """Return the report of a task on its test rows."""
        return self.metrics.tasks[task][self.outcomes[task].split]

    @property
    def alone(self) -> str | None:
        """The task that was trained alone, if the run did that."""
        task = self.config.get("task")
        return str(task) if task is not None and list(self.outcomes) == [task] else None


def read_record(folder: Path, metrics: RunMetrics | None = None) -> Record:
    """Read a finished run; its ``metrics.json`` only where ``metrics`` are not given.

    Raises:
        DataError: Its configuration, its metrics or its predictions cannot be read (all problems of a file).
    """
    metrics = read_metrics(folder / METRICS) if metrics is None else metrics
    facts = schema.read_record(Facts, dict(metrics.run), f"{folder / METRICS}: run")
    outcomes = {}
    for task, splits in metrics.tasks.items():
        if (split := reported_split(splits)) is not None:
            path = predictions_path(folder, task, split)
            check_file(folder, path, metrics.files)
            outcomes[task] = RunPredictions(split, read_predictions(path))
    if not outcomes:
        raise DataError(Problem(f"{folder / METRICS}: tasks", "no figures of any task", "a task with test or val"))
    return Record(folder, read_plain_config(folder), metrics, outcomes, facts)


def read_plain_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a run as plain values, which need not fit today's schema.

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
        expected = "the configuration of a run: keys with values"
        raise DataError(Problem(str(path), f"a {type(values).__name__}", expected))
    return values


def read_curves(run: str | Path) -> dict[str, list[tuple[float, float]]]:
    """Return the values of each logged metric by epoch, from 1, averaged where there are several in an epoch.

    A run without such a log has no curves; cells that cannot be read, as a killed run may leave them, are skipped.
    """
    curves: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    try:
        with not_pipe(Path(run) / CURVES).open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                epoch = _number(line.pop("epoch", None))
                for name, cell in line.items():
                    value = _number(cell)
                    if epoch is not None and value is not None and name != "step":
                        curves[name][epoch + 1].append(value)
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
    return {
        name: [(epoch, sum(values) / len(values)) for epoch, values in sorted(points.items())]
        for name, points in curves.items()
    }


def _number(cell: str | None) -> float | None:
    try:
        return float(cell) if cell else None
    except (TypeError, ValueError):
        return None
