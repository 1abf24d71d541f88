"""What is reported of one task on one split: overall figures, each class, and the confusion matrix; no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

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
        return asdict(self)

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


def read_report(fields: Fields) -> TaskReport:
    """Return the report that ``fields`` hold; worthless where they note a problem, which ``fields.finish`` raises."""
    per_class = {label: _read_class(entry) for label, entry in fields.fields("per_class").entries()}
    return TaskReport(
        **{name: fields.number(name) for name in OVERALL},
        per_class=per_class,
        confusion=fields.counts("confusion", size=len(per_class)) if per_class else [],
    )


def _read_class(fields: Fields) -> ClassReport:
    return ClassReport(
        precision=fields.number("precision"),
        recall=fields.number("recall"),
        f1=fields.number("f1"),
        support=fields.integer("support"),
    )
