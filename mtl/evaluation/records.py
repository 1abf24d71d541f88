"""Records of what was measured, which reports, pages and comparisons show.

They are plain dataclasses. Their annotations are also the schema by which `mtl.evaluation.run_metrics` checks a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo

Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Natural = Annotated[int, Field(strict=True, ge=0)]

MEASURES = ("ece", "nll", "brier")
"""Metrics of probabilities."""
DECISIONS = ("accuracy", "macro_f1")
"""Metrics of predicted classes, which only a tuned decision rule changes."""


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
    """All metrics of one task on one split; see `mtl.evaluation.metrics` for the conventions.

    Attributes:
        accuracy: Share of the rows that were predicted correctly.
        macro_precision: Mean precision of all classes of the task, each counted once.
        macro_recall: Mean recall of all classes (balanced accuracy where every class has rows).
        macro_f1: Mean F1 of all classes.
        weighted_precision: Mean precision, each class weighted by its support.
        weighted_recall: Mean recall, each class weighted by its support; equals the accuracy.
        weighted_f1: Mean F1, each class weighted by its support.
        per_class: The metrics of each class by label, in the order of the confusion matrix.
        confusion: Counts of rows, one list for each true class, in it one count for each predicted class.
        stages: The metrics of each stage of a multi-stage head.
        calibration: How far the probabilities can be trusted; None where only classes were counted.
        answering: Prediction sets and abstention; None on the rows that their thresholds come from, and without any.
    """

    accuracy: Real
    macro_precision: Real
    macro_recall: Real
    macro_f1: Real
    weighted_precision: Real
    weighted_recall: Real
    weighted_f1: Real
    per_class: dict[str, ClassReport]
    confusion: Annotated[list[list[Natural]], AfterValidator(_check_square)]
    stages: StageReports | None = None
    calibration: CalibrationReport | None = None
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


@dataclass(frozen=True, slots=True)
class StageReports:
    """The metrics of a multi-stage head by stage; see `mtl.evaluation.stages`.

    Attributes:
        first: The coarse classes. The predicted one has the greatest sum of the probabilities of its labels, so it need
            not be that of the most probable label.
        second: For each coarse class with several labels: which of its labels its true rows have.
        first_loss: Mean of ``-log p(coarse class)`` of the true classes, in nats.
        second_loss: Mean of ``-log p(label | coarse class)`` over all rows; the sum of both is the loss of the labels.
    """

    first: TaskReport
    second: dict[str, TaskReport]
    first_loss: Real
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
    """The rows whose confidence, the probability of the predicted class, lies in ``(lower, upper]``.

    Attributes:
        lower: Lower end, not included.
        upper: Upper end, included.
        count: How many rows.
        confidence: Their mean confidence; 0.0 without rows.
        accuracy: The share of them that was predicted correctly; 0.0 without rows.
    """

    lower: Real
    upper: Real
    count: Natural
    confidence: Real
    accuracy: Real


@dataclass(frozen=True, slots=True)
class CalibrationScores:
    """Metrics of one set of probabilities; see `mtl.evaluation.calibration` for their definitions.

    Attributes:
        ece: Expected calibration error, from 0 (best) to 1.
        nll: Mean negative log-likelihood of the true classes, in nats.
        brier: Brier score, from 0 (best) to 2.
        accuracy: Share of the rows whose most probable class is the true one.
        macro_f1: Mean F1 of all classes.
    """

    ece: Real
    nll: Real
    brier: Real
    accuracy: Real
    macro_f1: Real


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """The probabilities of a head before and after calibration.

    Attributes:
        before: The metrics of the head's own probabilities.
        after: Those with the adjustment by the prior and the temperature.
        temperature: What the adjusted logits are divided by; 1.0 changes nothing.
        tau: How much of the class prior of the training rows is removed from the logits; 0.0 changes nothing.
        bins: The reliability of the probabilities ``after``, bins of equal width from 0 to 1.
        bins_before: The same for the head's own probabilities.
    """

    before: CalibrationScores
    after: CalibrationScores
    temperature: Real
    tau: Real
    bins: list[ReliabilityBin]
    bins_before: list[ReliabilityBin]


@dataclass(frozen=True, slots=True)
class SetFigures:
    """Prediction sets for one coverage; see `mtl.model.conformal`.

    Attributes:
        coverage: The share of the rows of each class whose set is to hold it.
        covered: The share of all rows whose set holds the true class.
        lowest: That share of the class where it is lowest.
        size: Mean number of labels in a set.
        single: Share of the rows with one label in the set.
        empty: Share of the rows with none.
    """

    coverage: Real
    covered: Real
    lowest: Real
    size: Real
    single: Real
    empty: Real


@dataclass(frozen=True, slots=True)
class AnswerFigures:
    """Answers for one risk; see `mtl.model.conformal`.

    Attributes:
        max_risk: The share of wrong answers to accept.
        threshold: The lowest probability of a predicted label that is given as an answer; None: no answer is given.
        answered: Share of the rows that are answered.
        wrong: Share of these that are wrong; None where none is answered.
    """

    max_risk: Real
    threshold: Real | None
    answered: Real
    wrong: Real | None


@dataclass(frozen=True, slots=True)
class AnsweringReport:
    """Prediction sets for several coverages, and answers for several risks."""

    sets: list[SetFigures]
    answers: list[AnswerFigures]


@dataclass(frozen=True, slots=True)
class Retention:
    """What training did to the encoder's general ability.

    Attributes:
        before: Spearman correlation on the pairs before training, from -1 to 1.
        after: The same for the encoder of the finished run.
        pairs: The number of pairs.
    """

    before: Real
    after: Real
    pairs: Natural

    @property
    def change(self) -> float:
        """``after - before``; exactly 0 where the encoder was frozen."""
        return self.after - self.before


@dataclass(frozen=True, slots=True)
class EpochFigures:
    """The training loss and validation scores of one epoch.

    Attributes:
        epoch: Its number, from 1.
        train_loss: The mean of the combined loss over its steps.
        val_macro_f1: The macro-F1 of each task in the last validation of the epoch; empty if there was none.
    """

    epoch: int
    train_loss: float
    val_macro_f1: Mapping[str, float] = field(default_factory=dict)
