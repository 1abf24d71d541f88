"""What is reported of one task on one split: overall figures, each class, and the confusion matrix; no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mtl.evaluation.calibration_report import CalibrationReport, read_calibration
from mtl.evaluation.fields import Fields

OVERALL = (
    "accuracy",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "weighted_precision",
    "weighted_recall",
    "weighted_f1",
)


@dataclass(frozen=True, slots=True)
class ClassReport:
    """The figures of one class: shares from 0 to 1, and ``support``, the number of its true rows."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True)
class TaskReport:
    """All figures of one task on one split; see `mtl.evaluation.metrics` for the conventions.

    Attributes:
        accuracy: Share of the rows that were predicted right.
        macro_precision: Mean precision of all classes of the task, each counted once.
        macro_recall: Mean recall of all classes (balanced accuracy where every class has rows).
        macro_f1: Mean F1 of all classes.
        weighted_precision: Mean precision, each class weighted by its support.
        weighted_recall: Mean recall, each class weighted by its support; equals the accuracy.
        weighted_f1: Mean F1, each class weighted by its support.
        per_class: The figures of each class by label, in the order of the confusion matrix.
        confusion: Counts of rows, one list for each true class, in it one count for each predicted class.
        stages: The figures of each stage, where the head has several.
        calibration: How far the probabilities can be trusted; None where only classes were counted.
    """

    accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    weighted_precision: float
    weighted_recall: float
    weighted_f1: float
    per_class: dict[str, ClassReport]
    confusion: list[list[int]]
    stages: StageReports | None = None
    calibration: CalibrationReport | None = None

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
        """The accuracy of always answering the most frequent class of this split: what a model has to beat."""
        return max((scores.support for scores in self.per_class.values()), default=0) / max(self.rows, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the report in the layout of ``metrics.json``: plain numbers, texts, lists and dictionaries."""
        return _without_absent(asdict(self))

    @classmethod
    def from_dict(cls, values: Any, source: str = "report") -> TaskReport:
        """Return the report that `to_dict` gave.

        Args:
            values: What was read.
            source: The file that it was read from, for the error.

        Raises:
            DataError: Keys that miss or hold something else, all of them together.
        """
        fields = Fields(values, source)
        report = read_report(fields)
        fields.finish()
        return report


@dataclass(frozen=True, slots=True)
class StageReports:
    """The figures of a multi-stage head by stage; see `mtl.evaluation.stages`.

    Attributes:
        first: The coarse classes. Predicted is the one of greatest probability, the sum over its labels, so it may be
            another than that of the most probable label.
        second: For each coarse class with several labels: its true rows, the coarse class given, which of its labels.
        first_loss: Mean of ``-log p(coarse class)`` of the true classes, in nats.
        second_loss: Mean of ``-log p(label | coarse class)`` over all rows; the sum of both is the loss of the labels.
    """

    first: TaskReport
    second: dict[str, TaskReport]
    first_loss: float
    second_loss: float

    @property
    def second_rows(self) -> int:
        """The number of rows that the second stage decides on."""
        return sum(report.rows for report in self.second.values())

    @property
    def second_accuracy(self) -> float:
        """Share of those rows to which it gives the right label, the coarse class given; 0.0 without rows."""
        right = sum(row[at] for report in self.second.values() for at, row in enumerate(report.confusion))
        return right / max(self.second_rows, 1)


def _without_absent(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out the parts that a report has not, also in the reports of the stages."""
    stages = values["stages"]
    if stages is not None:
        second = {name: _without_absent(report) for name, report in stages["second"].items()}
        values["stages"] = {**stages, "first": _without_absent(stages["first"]), "second": second}
    return {name: value for name, value in values.items() if value is not None}


def read_report(fields: Fields) -> TaskReport:
    """Return the report that ``fields`` hold; worthless where they note a problem, which ``fields.finish`` raises."""
    per_class = {label: _read_class(entry) for label, entry in fields.fields("per_class").entries()}
    return TaskReport(
        **{name: fields.number(name) for name in OVERALL},
        per_class=per_class,
        confusion=fields.counts("confusion", size=len(per_class)) if per_class else [],
        stages=_read_stages(fields.fields("stages")) if "stages" in fields else None,
        calibration=read_calibration(fields.fields("calibration")) if "calibration" in fields else None,
    )


def _read_stages(fields: Fields) -> StageReports:
    return StageReports(
        first=read_report(fields.fields("first")),
        second={name: read_report(report) for name, report in fields.fields("second").entries()},
        first_loss=fields.number("first_loss"),
        second_loss=fields.number("second_loss"),
    )


def _read_class(fields: Fields) -> ClassReport:
    return ClassReport(
        precision=fields.number("precision"),
        recall=fields.number("recall"),
        f1=fields.number("f1"),
        support=fields.integer("support"),
    )
