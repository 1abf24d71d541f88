"""Compute the logits of all rows of a split, and the report and predictions from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from mtl.activations.encoding import Encoding, encode_table, head_logits
from mtl.data.datamodule import TokenizedSplit
from mtl.data.examples import Examples
from mtl.evaluation.calibration import calibration_report
from mtl.evaluation.metrics import report_of_rows
from mtl.evaluation.predictions import Predictions
from mtl.evaluation.records import AnswerFigures, AnsweringReport, SetFigures, TaskReport
from mtl.model.conformal import Outcomes
from mtl.model.decision import Calibration
from mtl.model.network import MultiTaskNetwork

if TYPE_CHECKING:
    from numpy.typing import NDArray

COVERAGES: Final = (0.8, 0.9, 0.95)
RISKS: Final = (0.01, 0.05, 0.1)


@dataclass(frozen=True, slots=True)
class Scored:
    """What a network scored on one split of a task."""

    report: TaskReport
    predictions: Predictions


def reports_of(scored: Mapping[str, Mapping[str, Scored]]) -> dict[str, dict[str, TaskReport]]:
    """Return the report of each task and split."""
    return {task: {split: scores.report for split, scores in splits.items()} for task, splits in scored.items()}


def score(
    logits: NDArray[np.float32],
    labels: tuple[str, ...],
    truth: NDArray[np.int64],
    examples: Examples,
    calibration: Calibration,
    bins: int,
    outcomes: Outcomes | None = None,
) -> Scored:
    """Return the predictions of a split and their metrics, from the outputs of a head ``(N, C)``.

    Args:
        logits: ``(N, C)``, in the order of the ``labels``.
        labels: The ``C`` labels.
        truth: Class ids of the rows, ``(N,)``.
        examples: The same rows as text.
        calibration: Turns logits into probabilities.
        bins: Bins of the calibration error.
        outcomes: Those of the validation rows, for the figures of prediction sets and abstention on other rows.
    """
    predicted, probabilities = calibration.predicted(logits), calibration.probabilities(logits)
    names = np.array(labels, dtype=object)
    predictions = Predictions(
        classes=list(labels),
        texts=examples.texts,
        labels=names[truth].tolist(),
        predicted=names[predicted].tolist(),
        probabilities=probabilities,
        sources=examples.sources(),
    )
    report = replace(
        report_of_rows(truth, predicted, labels),
        calibration=calibration_report(logits, truth, calibration, bins),
        answering=answering_report(probabilities, predicted, truth, outcomes) if outcomes and len(truth) else None,
    )
    return Scored(report, predictions)


def answering_report(
    probabilities: NDArray[np.floating], predicted: NDArray[np.int64], labels: NDArray[np.int64], outcomes: Outcomes
) -> AnsweringReport:
    """Return what the thresholds of validation rows, from their ``outcomes``, give on other rows, one at least.

    Those have calibrated probabilities ``(N, C)``, predicted classes ``(N,)`` and true ones ``(N,)``.
    """
    rows = np.arange(len(labels))
    confidence, wrong = probabilities[rows, predicted], predicted != labels
    sets = []
    for coverage in COVERAGES:
        inside = probabilities >= outcomes.set_thresholds(coverage)
        sizes, holds = inside.sum(axis=1), inside[rows, labels]
        lowest = min(holds[labels == label].mean() for label in np.unique(labels))
        shares = (holds.mean(), lowest, sizes.mean(), (sizes == 1).mean(), (sizes == 0).mean())
        sets.append(SetFigures(coverage, *map(float, shares)))
    answers = []
    for risk in RISKS:
        threshold = outcomes.answer_threshold(risk)
        answered = confidence >= threshold
        known = threshold if np.isfinite(threshold) else None
        share_wrong = float(wrong[answered].mean()) if answered.any() else None
        answers.append(AnswerFigures(risk, known, float(answered.mean()), share_wrong))
    return AnsweringReport(sets, answers)


def logits_of(
    network: MultiTaskNetwork,
    task: str,
    split: TokenizedSplit,
    how: Encoding,
    embeddings: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Return the logits ``(N, C)`` of all rows of a split, from their ``embeddings`` ``(N, H)`` if they are known."""
    if embeddings is None:
        embeddings = encode_table(network.encoder, split.table, how)
    return head_logits(network, task, embeddings)
