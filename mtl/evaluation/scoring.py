"""Compute the logits of all rows of a split, and the report and predictions from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mtl.activations.encoding import Encoding, encode_table, head_logits
from mtl.data.datamodule import EncodedSplit
from mtl.data.examples import Examples
from mtl.evaluation.answering import answering_report
from mtl.evaluation.calibrate import calibration_report
from mtl.evaluation.metrics import report_of_rows
from mtl.evaluation.predictions import Predictions
from mtl.evaluation.records import TaskReport
from mtl.model.conformal import Outcomes
from mtl.model.decision import Calibration
from mtl.model.network import MultiTaskNetwork

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Scored:
    """The metrics and predictions of a network on one task's split."""

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
    """Return the predictions of a split and their metrics.

    Args:
        logits: Outputs of the head, ``(N, C)``.
        labels: The ``C`` labels, in the order of the logits.
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


def logits_of(
    network: MultiTaskNetwork,
    task: str,
    split: EncodedSplit,
    how: Encoding,
    embeddings: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Return the logits ``(N, C)`` of all rows of a split.

    Args:
        network: Encoder and heads, on their device.
        task: The task.
        split: Token ids of the rows.
        how: Batches, precision, progress bar.
        embeddings: Embeddings of the rows, ``(N, H)``; by default they are computed.
    """
    if embeddings is None:
        embeddings = encode_table(network.encoder, split.table, how)
    return head_logits(network, task, embeddings)
