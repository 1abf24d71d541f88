"""The content of a run's report as plain values, so that writing a report needs neither training nor models."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl.base import formatting
from mtl.evaluation.records import CalibrationReport, ClassReport, Reports, Retention, TaskReport, flat
from mtl.evaluation.run_metrics import Cost
from mtl.evaluation.task_gradients import GradientFigures

if TYPE_CHECKING:
    from mtl.evaluation.errors import ErrorAnalysis
    from mtl.evaluation.predictions import ConfusionExamples

RARE_SUPPORT = 20
"""A class with fewer true rows is marked: a single row changes its recall by more than 0.05."""


def weakest(per_class: Mapping[str, ClassReport], most: int) -> list[str]:
    """Return at most ``most`` classes with the lowest F1, the worst first; of equal ones those with more rows first."""
    return sorted(per_class, key=lambda label: (per_class[label].f1, -per_class[label].support))[:most]


def others_in_words(per_class: Mapping[str, ClassReport], shown: Collection[str]) -> str:
    """Return the range of F1 of the classes that are not shown; an empty text where all are shown."""
    scores = [report.f1 for label, report in per_class.items() if label not in shown]
    if not scores:
        return ""
    low, high = formatting.score(min(scores)), formatting.score(max(scores))
    return f"{len(scores)} more class{'es' * (len(scores) > 1)}, F1 {low}" + (f" to {high}" if low != high else "")


@dataclass(frozen=True, slots=True)
class JobRow:
    """One job of a sweep."""

    number: int
    overrides: str  # its value of each swept key: ``freeze=none seed=1``
    folder: Path
    reports: Reports = field(default_factory=dict)  # empty where it failed
    error: str = ""  # why it failed; empty if it did not


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One parameter group: layers that share a learning rate and a weight decay."""

    name: str  # its name in the optimizer
    layers: Sequence[str]  # names of its layers, from the bottom
    learning_rate: float | None  # the peak learning rate; None where the group was never trained
    weight_decay: float | None  # the weight decay; None where the group was never trained
    parameters: int  # number of scalars
    tensors: int = 0  # number of parameter tensors
    state: str = "trained"  # ``trained``, ``frozen``, or from when on it is trained (``trained from epoch 2``)


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage of gradual unfreezing."""

    start: str  # when it begins: ``epoch 2`` or ``step 101``, both from 1
    begins: Sequence[str]  # the layers that it unfreezes, from the bottom
    layers: Sequence[str]  # all layers that are trained in it, from the bottom
    parameters: int  # number of scalars that are trained in it
    rates: Mapping[str, float]  # the peak learning rate of each trained group


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One task within an epoch."""

    task: str
    rows: int  # rows of its training data
    batches: int  # its batches in an epoch
    # Passes over its rows in an epoch (1.0: each row once, oversampled ones as often as they are repeated)
    passes: float
    slots: int | None = None  # rows of a pass with the repetitions of oversampling; None without oversampling


@dataclass(frozen=True, slots=True)
class Confusion:
    """Rows of one class that were predicted as one other class."""

    label: str  # the true class
    predicted: str
    count: int
    support: int  # all rows of the true class


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture beside the report."""

    path: str  # its path, relative to the report
    caption: str  # what it shows, as alternative text


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Everything that a run's report shows."""

    title: str
    tasks: Reports
    facts: Mapping[str, str] = field(default_factory=dict)  # by name, in the order to show
    warnings: Sequence[str] = ()  # what a reader must know before relying on the metrics
    groups: Sequence[GroupRow] = ()  # from the bottom layer to the heads
    unfreezing: Sequence[StageRow] = ()  # empty where everything is trained from the start
    cost: Cost = field(default_factory=Cost)
    examples: Mapping[tuple[str, str], ConfusionExamples] = field(default_factory=dict)  # by task and split
    files: Mapping[str, str] = field(default_factory=dict)  # what each contains, by its path relative to the report
    retention: Retention | None = None  # None where it was not measured
    errors: Mapping[str, ErrorAnalysis] = field(default_factory=dict)  # by task, on the reported split
    pictures: Mapping[str, Picture] = field(default_factory=dict)  # by the names of `run_charts.draw_run`
    gradients: GradientFigures | None = None  # None where they were not measured


def reported_split(splits: Mapping[str, Any]) -> str | None:
    """Return the split that a report shows first: test, the last one where there is no test, None without any."""
    return "test" if "test" in splits else next(reversed(list(splits)), None)


def frequent_confusions(report: TaskReport, most: int = 5) -> list[Confusion]:
    """Return at most ``most`` off-diagonal cells of the confusion matrix, those with the most rows first."""
    confusions = [
        Confusion(label, predicted, count, report.per_class[label].support)
        for label, row in zip(report.labels, report.confusion, strict=True)
        for predicted, count in zip(report.labels, row, strict=True)
        if count and predicted != label
    ]
    return sorted(confusions, key=lambda confusion: confusion.count, reverse=True)[:most]


def retention_row(retention: Retention) -> tuple[str, str]:
    """Return the row of a table of facts on the encoder's retention: its name and its value in words."""
    before, after = formatting.score(retention.before), formatting.score(retention.after)
    pairs = f"Spearman on {formatting.count(retention.pairs)} sentence pairs"
    if retention.change == 0:
        return "retention", f"{after}, unchanged ({pairs})"
    return "retention", f"{before} before, {after} after: {retention.change:+.3f} ({pairs})"


def calibrations(tasks: Reports) -> list[tuple[str, str, CalibrationReport]]:
    """Return task, split and calibration of each report that has one."""
    return [(task, split, report.calibration) for task, split, report in flat(tasks) if report.calibration is not None]


def cost_rows(cost: Cost) -> list[tuple[str, str]]:
    """Return the rows of a table of a run's cost: what was measured, and the value with its unit."""
    rows = [] if cost.train_seconds is None else _time_rows(cost.train_seconds, cost.encoding_seconds)
    if cost.sentences_per_second is not None:
        rows.append(("throughput", f"{formatting.count(cost.sentences_per_second)} sentences/s"))
    if cost.trainable_parameters is not None and cost.total_parameters is not None:
        trained, total = cost.trainable_parameters, cost.total_parameters
        of_all = f"{formatting.count(trained)} of {formatting.count(total)}"
        rows.append(("trained parameters", f"{of_all} ({formatting.share(trained, total)})"))
    if cost.peak_memory_bytes is not None:
        rows.append(("peak memory", formatting.size(cost.peak_memory_bytes)))
    return rows


def _time_rows(training: float, encoding: float | None) -> list[tuple[str, str]]:
    if encoding is None:
        return [("training time", f"{formatting.duration(training)}, and encoding for frozen layers: unknown")]
    if encoding == 0:
        return [("training time", formatting.duration(training))]
    of_rows = "each training and validation sentence once, as with an empty cache"
    return [
        ("encoding", f"{formatting.duration(encoding)} ({of_rows})"),
        ("training", formatting.duration(training)),
        ("both together", formatting.duration(training + encoding)),
    ]
