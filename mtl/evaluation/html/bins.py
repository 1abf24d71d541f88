"""Reliability from predictions: how sure they are and how often right, in bins, and the expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtl.evaluation.predictions import Predictions

BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Predictions of about the same probability: their mean probability, the share that is right, and their number."""

    confidence: float
    accuracy: float
    count: int


def reliability_bins(predictions: Sequence[Predictions]) -> list[Bin]:
    """Return the bins that are not empty, by the probability of the predicted class.

    Args:
        predictions: Of one run or of several, which then count together.
    """
    sure = np.concatenate([_confidence(each) for each in predictions])
    right = np.concatenate([np.array(each.labels, object) == np.array(each.predicted, object) for each in predictions])
    places = np.minimum((sure * BINS).astype(int), BINS - 1)
    chosen = [(places == at) for at in range(BINS)]
    return [Bin(float(sure[rows].mean()), float(right[rows].mean()), int(rows.sum())) for rows in chosen if rows.any()]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Return the expected calibration error: the gap of each bin, weighted by its predictions (Guo et al., ICML 2017).

    Args:
        bins: Of `reliability_bins`.
    """
    total = sum(each.count for each in bins)
    return sum(each.count * abs(each.confidence - each.accuracy) for each in bins) / total if total else 0.0


def _confidence(predictions: Predictions) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    place = {name: at for at, name in enumerate(predictions.classes)}
    columns = [place[name] for name in predictions.predicted]
    found = predictions.probabilities[np.arange(len(columns)), columns]
    return found.astype(np.float64)
