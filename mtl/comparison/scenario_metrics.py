"""The metrics and the cost of a scenario: mean and standard deviation over its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mtl.comparison.scenarios import Scenario
from mtl.evaluation.run_metrics import Cost, validation_score
from mtl.evaluation.runs import Record

RARE_SHARE = 0.5
"""A class is rare when it has less than this share of the rows of a class in a balanced data set."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A metric over seeds."""

    mean: float
    deviation: float | None  # sample standard deviation; None with one seed
    values: tuple[float, ...]  # of each seed

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Return the spread of the known values, or None if none is known."""
        known = tuple(value for value in values if value is not None)
        if not known:
            return None
        deviation = statistics.stdev(known) if len(known) > 1 else None
        return cls(statistics.fmean(known), deviation, known)


@dataclass(frozen=True, slots=True)
class TaskFigures:
    """The metrics of one task; None where they were not measured or there is nothing to measure."""

    accuracy: Spread | None
    macro_f1: Spread | None
    rare_f1: Spread | None
    calibration_error: Spread | None
    per_class_f1: Mapping[str, Spread]
    validation: Spread | None  # macro-F1 on the validation rows


@dataclass(frozen=True, slots=True)
class Figures:
    """The metrics and the cost of a scenario."""

    scenario: Scenario
    score: Spread | None  # macro-F1 on the test rows, averaged over the tasks; None where the runs lack some of them
    validation: Spread | None  # the same on the validation rows; None where it was not measured
    tasks: Mapping[str, TaskFigures]
    retention_before: Spread | None  # Spearman correlation on sentence pairs before training
    retention: Spread | None  # the same after training
    # Cost, see `mtl.evaluation.run_metrics.Cost`; None where it is unknown for some run
    trainable_parameters: Spread | None
    train_seconds: Spread | None  # without encoding; 0 where nothing is trained
    encoding_seconds: Spread | None  # for frozen layers, with an empty cache
    total_seconds: Spread | None  # both
    sentences_per_second: Spread | None  # in both
    peak_memory_bytes: Spread | None

    @property
    def name(self) -> str:
        """The name of the scenario."""
        return self.scenario.name

    @property
    def seconds(self) -> float | None:
        """Mean seconds of training with encoding for frozen layers, None where they are unknown."""
        return self.total_seconds.mean if self.total_seconds else None

    @property
    def cost(self) -> float:
        """The same seconds to sort by, infinity where they are unknown."""
        return float("inf") if self.seconds is None else self.seconds

    @property
    def learns(self) -> bool:
        """Whether anything is trained."""
        return self.trainable_parameters is None or self.trainable_parameters.mean > 0


def summarize(scenario: Scenario, tasks: Sequence[str], rare: Mapping[str, Sequence[str]]) -> Figures:
    """Return the metrics and the cost of a scenario; the score averages ``tasks``, ``rare`` are their rare classes."""
    runs = scenario.runs
    costs = [_cost(run) for run in runs]
    totals = [cost.total_seconds for cost in costs]
    retentions = [run.metrics.retention for run in runs if run.metrics.retention is not None]
    return Figures(
        scenario=scenario,
        score=Spread.of(_score(run, tasks) for run in runs),
        validation=_validation(runs, tasks),
        tasks={task: _task(task, [run for run in runs if task in run.outcomes], rare[task]) for task in scenario.tasks},
        retention_before=Spread.of(retention.before for retention in retentions),
        retention=Spread.of(retention.after for retention in retentions),
        trainable_parameters=Spread.of(cost.trainable_parameters for cost in costs),
        train_seconds=Spread.of(cost.train_seconds for cost in costs),
        encoding_seconds=None if None in totals else Spread.of(cost.encoding_seconds for cost in costs),
        total_seconds=None if None in totals else Spread.of(totals),
        sentences_per_second=None if None in totals else Spread.of(cost.sentences_per_second for cost in costs),
        peak_memory_bytes=Spread.of(cost.peak_memory_bytes for cost in costs),
    )


def _cost(run: Record) -> Cost:
    """Return the cost of a run, without seconds where nothing is trained.

    Runs of older versions do not record the encoding for frozen layers. Where all layers are trained there is none.
    """
    cost = run.metrics.cost
    if cost.trainable_parameters == 0:
        return replace(cost, train_seconds=0.0, encoding_seconds=0.0)
    if cost.encoding_seconds is None and (run.config.get("freeze") or {}).get("backbone") == "none":
        return replace(cost, encoding_seconds=0.0)
    return cost


def _score(run: Record, tasks: Sequence[str]) -> float | None:
    if any(task not in run.outcomes for task in tasks):
        return None
    return statistics.fmean(run.report(task).macro_f1 for task in tasks)


def _validation(runs: Sequence[Record], tasks: Sequence[str]) -> Spread | None:
    """Return macro-F1 on the validation rows, averaged over the tasks; None unless all runs have it for all tasks."""
    scores = [validation_score({task: run.metrics.tasks.get(task, {}) for task in tasks}) for run in runs]
    return None if None in scores else Spread.of(scores)


def _task(task: str, runs: Sequence[Record], rare: Sequence[str]) -> TaskFigures:
    reports = [run.report(task) for run in runs]
    calibrations = [report.calibration for report in reports if report.calibration is not None]
    classes = dict.fromkeys(label for report in reports for label in report.per_class)
    f1 = [{label: scores.f1 for label, scores in report.per_class.items()} for report in reports]
    per_class = {label: Spread.of(scores.get(label) for scores in f1) for label in classes}
    return TaskFigures(
        accuracy=Spread.of(report.accuracy for report in reports),
        macro_f1=Spread.of(report.macro_f1 for report in reports),
        rare_f1=Spread.of(statistics.fmean(scores[label] for label in rare) for scores in f1) if rare else None,
        calibration_error=Spread.of(calibration.after.ece for calibration in calibrations),
        per_class_f1={label: spread for label, spread in per_class.items() if spread is not None},
        validation=_validation(runs, [task]),
    )


def rare_classes(task: str, runs: Sequence[Record]) -> list[str]:
    """Return the classes of a task with less than `RARE_SHARE` of an equal share of the rows.

    The training rows of the run with the most of them count, or the test rows where no run records its training rows.
    """
    recorded = [run.facts.training_rows[task] for run in runs if task in run.facts.training_rows]
    supports = {label: scores.support for label, scores in runs[0].report(task).per_class.items()}
    counts = max(recorded, key=lambda rows: sum(rows.values())) if recorded else supports
    counts = {label: counts.get(label, 0) for label in supports}
    border = RARE_SHARE * sum(counts.values()) / len(counts)
    return [label for label, count in counts.items() if count < border]
