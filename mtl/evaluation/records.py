"""Records of what was measured, which reports, pages and comparisons show.

They are plain dataclasses. Their annotations are also the schema by which `mtl.evaluation.run_metrics` checks a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo

Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Natural = Annotated[int, Field(strict=True, ge=0)]


def _check_square(confusion: list[list[int]], info: ValidationInfo) -> list[list[int]]:
    if "per_class" not in info.data:  # which is a problem of its own
        return confusion
    size = len(info.data["per_class"])
    if len(confusion) != size or any(len(row) != size for row in confusion):
        raise ValueError(f"{size} lists of {size} whole numbers")
    return confusion


@dataclass(frozen=True, slots=True)
class ClassReport:
    """The metrics of one class: shares from 0 to 1, and ``support``, the number of its true rows."""

    precision: Real
    recall: Real
    f1: Real
    support: Natural


@dataclass(frozen=True, slots=True)
class TaskReport:
    """All metrics of one task on one split; see `mtl.evaluation.metrics` for the conventions."""

    accuracy: Real  # share of the rows that were predicted correctly
    macro_precision: Real  # mean precision of all classes of the task, each counted once
    macro_recall: Real  # mean recall of all classes (balanced accuracy where every class has rows)
    macro_f1: Real  # mean F1 of all classes
    weighted_precision: Real  # mean precision, each class weighted by its support
    weighted_recall: Real  # mean recall, each class weighted by its support; equals the accuracy
    weighted_f1: Real  # mean F1, each class weighted by its support
    per_class: dict[str, ClassReport]  # the metrics of each class by label, in the order of the confusion matrix
    # Counts of rows, one list for each true class, in it one count for each predicted class
    confusion: Annotated[list[list[Natural]], AfterValidator(_check_square)]
    stages: StageReports | None = None  # the metrics of each stage of a multi-stage head
    # How far the probabilities can be trusted; None where only classes were counted
    calibration: CalibrationReport | None = None
    # Prediction sets and abstention; None on the rows that their thresholds come from, and without any
    answering: AnsweringReport | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names in the order of the confusion matrix."""
        return tuple(self.per_class)

    @property
    def rows(self) -> int:
        """The number of rows that were evaluated."""
        return sum(scores.support for scores in self.per_class.values())

    @property
    def majority_accuracy(self) -> float:
        """The accuracy of always predicting the most frequent class of this split: the baseline of a model."""
        return max((scores.support for scores in self.per_class.values()), default=0) / max(self.rows, 1)


Reports = Mapping[str, Mapping[str, TaskReport]]
"""The report of each task (outer key) on each split (inner key: ``val``, ``test``)."""


def flat(reports: Reports) -> Iterator[tuple[str, str, TaskReport]]:
    """Yield task, split and report."""
    for task, splits in reports.items():
        for split, report in splits.items():
            yield task, split, report


@dataclass(frozen=True, slots=True)
class StageReports:
    """The metrics of a multi-stage head by stage; see `mtl.evaluation.stages`."""

    # The coarse classes. The predicted one has the greatest sum of the probabilities of its labels, so it need not be
    # that of the most probable label.
    first: TaskReport
    second: dict[str, TaskReport]  # for each coarse class with several labels: which of its labels its true rows have
    first_loss: Real  # mean of ``-log p(coarse class)`` of the true classes, in nats
    # Mean of ``-log p(label | coarse class)`` over all rows; the sum of both is the loss of the labels
    second_loss: Real

    @property
    def second_rows(self) -> int:
        """The number of rows that the second stage decides on."""
        return sum(report.rows for report in self.second.values())

    @property
    def second_accuracy(self) -> float:
        """Share of those rows that get the right label, given their coarse class; 0.0 without rows."""
        right = sum(row[at] for report in self.second.values() for at, row in enumerate(report.confusion))
        return right / max(self.second_rows, 1)


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The rows whose confidence, the probability of the predicted class, lies in ``(lower, upper]``."""

    lower: Real  # lower end, not included
    upper: Real  # upper end, included
    count: Natural  # how many rows
    confidence: Real  # their mean confidence; 0.0 without rows
    accuracy: Real  # the share of them that was predicted correctly; 0.0 without rows


@dataclass(frozen=True, slots=True)
class CalibrationScores:
    """Metrics of one set of probabilities; see `mtl.evaluation.calibration` for their definitions."""

    ece: Real  # expected calibration error, from 0 (best) to 1
    nll: Real  # mean negative log-likelihood of the true classes, in nats
    brier: Real  # Brier score, from 0 (best) to 2
    accuracy: Real  # share of the rows whose most probable class is the true one
    macro_f1: Real  # mean F1 of all classes


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """The probabilities of a head before and after calibration."""

    before: CalibrationScores  # the metrics of the head's own probabilities
    after: CalibrationScores  # those with the adjustment by the prior and the temperature
    temperature: Real  # what the adjusted logits are divided by; 1.0 changes nothing
    tau: Real  # how much of the class prior of the training rows is removed from the logits; 0.0 changes nothing
    bins: list[ReliabilityBin]  # the reliability of the probabilities ``after``, bins of equal width from 0 to 1
    bins_before: list[ReliabilityBin]  # the same for the head's own probabilities


@dataclass(frozen=True, slots=True)
class SetFigures:
    """Prediction sets for one coverage; see `mtl.model.conformal`."""

    coverage: Real  # the share of the rows of each class whose set is to hold it
    covered: Real  # the share of all rows whose set holds the true class
    lowest: Real  # that share of the class where it is lowest
    size: Real  # mean number of labels in a set
    single: Real  # share of the rows with one label in the set
    empty: Real  # share of the rows with none


@dataclass(frozen=True, slots=True)
class AnswerFigures:
    """Answers for one risk; see `mtl.model.conformal`."""

    max_risk: Real  # the share of wrong answers to accept
    # The lowest probability of a predicted label that is given as an answer; None: no answer is given
    threshold: Real | None
    answered: Real  # share of the rows that are answered
    wrong: Real | None  # share of these that are wrong; None where none is answered


@dataclass(frozen=True, slots=True)
class AnsweringReport:
    """Prediction sets for several coverages, and answers for several risks."""

    sets: list[SetFigures]
    answers: list[AnswerFigures]


@dataclass(frozen=True, slots=True)
class Retention:
    """What training did to the encoder's general ability."""

    before: Real  # Spearman correlation on the pairs before training, from -1 to 1
    after: Real  # the same for the encoder of the finished run
    pairs: Natural

    @property
    def change(self) -> float:
        """``after - before``; exactly 0 where the encoder was frozen."""
        return self.after - self.before


@dataclass(frozen=True, slots=True)
class EpochFigures:
    """The training loss and validation scores of one epoch."""

    epoch: int  # from 1
    train_loss: float  # the mean of the combined loss over its steps
    # The macro-F1 of each task in the last validation of the epoch; empty if there was none
    val_macro_f1: Mapping[str, float] = field(default_factory=dict)
