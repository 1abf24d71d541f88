"""Records of what was measured, which reports, pages and comparisons show: metrics, calibration, retention, curves."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeGuard

from mtl.base.errors import DataError, Problem

MEASURES = ("ece", "nll", "brier")
"""The figures of probabilities."""
DECISIONS = ("accuracy", "macro_f1")
"""The figures of predicted classes, which only a tuned decision rule changes."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The rows whose confidence, the probability of the predicted class, lies in ``(lower, upper]``.

    Attributes:
        lower: Lower end, not included.
        upper: Upper end, included.
        count: How many rows.
        confidence: Their mean confidence; 0.0 without rows.
        accuracy: The share of them that was predicted right; 0.0 without rows.
    """

    lower: float
    upper: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class CalibrationScores:
    """Figures of one set of probabilities; see `mtl.evaluation.calibration` for their definitions.

    Attributes:
        ece: Expected calibration error, from 0 (best) to 1.
        nll: Mean negative log-likelihood of the true classes, in nats.
        brier: Brier score, from 0 (best) to 2.
        accuracy: Share of the rows whose most probable class is the true one.
        macro_f1: Mean F1 of all classes.
    """

    ece: float
    nll: float
    brier: float
    accuracy: float
    macro_f1: float


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """The probabilities of a head as it was trained, and as they are given out.

    Attributes:
        before: The figures of the head's own probabilities.
        after: Those with the adjustment by the prior and the temperature.
        temperature: What the adjusted logits are divided by; 1.0 changes nothing.
        tau: How far the training rows' class frequencies are taken out of the logits; 0.0 changes nothing.
        bins: The reliability of the probabilities ``after``, bins of equal width from 0 to 1.
        bins_before: The same of the head's own.
    """

    before: CalibrationScores
    after: CalibrationScores
    temperature: float
    tau: float
    bins: list[ReliabilityBin]
    bins_before: list[ReliabilityBin]


def read_calibration(fields: Fields) -> CalibrationReport:
    """Return the report that ``fields`` hold; worthless where they note a problem, which ``fields.finish`` raises."""
    return CalibrationReport(
        before=_read_scores(fields.fields("before")),
        after=_read_scores(fields.fields("after")),
        temperature=fields.number("temperature"),
        tau=fields.number("tau"),
        bins=[_read_bin(each) for each in fields.objects("bins")],
        bins_before=[_read_bin(each) for each in fields.objects("bins_before")],
    )


def _read_scores(fields: Fields) -> CalibrationScores:
    return CalibrationScores(**{name: fields.number(name) for name in (*MEASURES, *DECISIONS)})


def _read_bin(fields: Fields) -> ReliabilityBin:
    return ReliabilityBin(
        lower=fields.number("lower"),
        upper=fields.number("upper"),
        count=fields.integer("count"),
        confidence=fields.number("confidence"),
        accuracy=fields.number("accuracy"),
    )


@dataclass(frozen=True, slots=True)
class EpochFigures:
    """The figures of one epoch.

    Attributes:
        epoch: Its number, from 1.
        train_loss: The mean of the combined loss over its steps.
        val_macro_f1: The macro-F1 of each task in the last validation of the epoch; empty if there was none.
    """

    epoch: int
    train_loss: float
    val_macro_f1: Mapping[str, float] = field(default_factory=dict)


_GREATEST = sys.float_info.max  # NaN, infinities and whole numbers beyond every float compare as greater


class Fields:
    """A JSON object whose fields are asked for by name and type.

    A field that misses or holds something else is noted and answered with an empty value of the type, so that one
    pass finds all problems; `finish` raises them.

    Args:
        values: What should be a JSON object.
        source: The file that it was read from.
        keys: The keys that lead to it in that file.
        problems: Where problems are noted; shared with the objects inside.
    """

    def __init__(
        self, values: Any, source: str, keys: tuple[str, ...] = (), problems: list[Problem] | None = None
    ) -> None:
        self._source = source
        self._keys = keys
        self._problems: list[Problem] = [] if problems is None else problems
        self._values: dict[str, Any] = values if isinstance(values, dict) else {}
        self._known_broken = not isinstance(values, dict)
        if self._known_broken:
            self._note(self._found(values), "a JSON object")

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def missing(self, name: str) -> bool:
        """Tell whether a field is null or not there."""
        return self._values.get(name) is None

    def number(self, name: str) -> float:
        """Return a number, whole or not."""
        value = self._values.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _GREATEST:
            return float(value)
        self._note_field(name, "a number")
        return 0.0

    def integer(self, name: str) -> int:
        """Return a whole number from 0 upwards."""
        value = self._values.get(name)
        if _is_count(value):
            return value
        self._note_field(name, "a whole number, 0 or more")
        return 0

    def text(self, name: str) -> str:
        """Return a text."""
        value = self._values.get(name)
        if isinstance(value, str):
            return value
        self._note_field(name, "a text")
        return ""

    def optional_number(self, name: str) -> float | None:
        """Return a number, or None where the field is null or misses."""
        return None if self.missing(name) else self.number(name)

    def optional_integer(self, name: str) -> int | None:
        """Return a whole number from 0 upwards, or None where the field is null or misses."""
        return None if self.missing(name) else self.integer(name)

    def counts(self, name: str, size: int) -> list[list[int]]:
        """Return a square table of ``size`` rows of whole numbers."""
        value = self._values.get(name)
        rows = value if isinstance(value, list) else []
        square = len(rows) == size and all(isinstance(row, list) and len(row) == size for row in rows)
        if square and all(_is_count(count) for row in rows for count in row):
            return rows
        self._note_field(name, f"{size} lists of {size} whole numbers")
        return []

    def fields(self, name: str) -> Fields:
        """Return the object inside; an empty one, with the problem noted, where there is none."""
        keys = (*self._keys, name)
        if name in self._values:
            return Fields(self._values[name], self._source, keys, self._problems)
        self._note_field(name, "a JSON object")
        inside = Fields({}, self._source, keys, self._problems)
        inside._known_broken = True
        return inside

    def objects(self, name: str) -> list[Fields]:
        """Return the objects of a list; none, with the problem noted, where there is no list."""
        value = self._values.get(name)
        if isinstance(value, list):
            keys = (*self._keys, name)
            return [Fields(each, self._source, (*keys, str(at)), self._problems) for at, each in enumerate(value)]
        self._note_field(name, "a list")
        return []

    def entries(self) -> Iterator[tuple[str, Fields]]:
        """Yield every key with the object that it holds."""
        for name in self._values:
            yield name, self.fields(name)

    def plain(self) -> dict[str, Any]:
        """Return the object as it was read."""
        return dict(self._values)

    def finish(self) -> None:
        """Raise what was noted.

        Raises:
            DataError: At least one field missed or held something else.
        """
        if self._problems:
            raise DataError(self._problems)

    def _note_field(self, name: str, expected: str) -> None:
        if self._known_broken:
            return  # said once for the object as a whole
        found = self._found(self._values[name]) if name in self._values else "nothing: the key is missing"
        self._note(found, expected, name)

    def _note(self, found: str, expected: str, *names: str) -> None:
        keys = ".".join((*self._keys, *names))
        self._problems.append(Problem(f"{self._source}: {keys}" if keys else self._source, found, expected))

    @staticmethod
    def _found(value: Any) -> str:
        return "null" if value is None else reprlib.repr(value)


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True, slots=True)
class Retention:
    """What training did to the encoder's general ability.

    Attributes:
        before: Spearman correlation on the pairs before training, from -1 to 1.
        after: The same for the encoder that the run leaves.
        pairs: The number of pairs.
    """

    before: float
    after: float
    pairs: int

    @property
    def change(self) -> float:
        """``after - before``; exactly 0 where the encoder was frozen."""
        return self.after - self.before

    @classmethod
    def read(cls, fields: Fields) -> Retention:
        """Return what ``metrics.json`` holds; worthless where ``fields`` note a problem."""
        return cls(fields.number("before"), fields.number("after"), fields.integer("pairs"))


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
