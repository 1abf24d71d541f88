"""What is reported of how far probabilities can be trusted, for one task on one split; no torch, no arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtl.evaluation.fields import Fields

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
