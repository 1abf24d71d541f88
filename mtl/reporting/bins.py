"""Reliability from the predictions that runs have kept: how sure they are and how often right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mtl.evaluation.calibration import reliability_bins
from mtl.evaluation.calibration_report import ReliabilityBin
from mtl.evaluation.predictions import Predictions
from mtl.evaluation.summary import RARE_SUPPORT

BINS = 15


def pooled_bins(predictions: Sequence[Predictions]) -> list[ReliabilityBin]:
    """Return the bins of all predictions together, of equal width from 0 to 1.

    Args:
        predictions: Of one task, by one run or by several, at least one.
    """
    classes = list(predictions[0].classes)
    place = {name: at for at, name in enumerate(classes)}
    columns = [[each.classes.index(name) for name in classes] for each in predictions]
    probabilities = [each.probabilities[:, own] for each, own in zip(predictions, columns, strict=True)]
    labels = [place[label] for each in predictions for label in each.labels]
    return reliability_bins(np.concatenate(probabilities), np.array(labels, dtype=np.int64), BINS)


def points(name: str, bins: Iterable[ReliabilityBin]) -> list[dict[str, str | float | bool]]:
    """Return the points of one line of a reliability chart; bins without rows have none.

    Args:
        name: The line's.
        bins: Of `reliability_bins`.
    """
    return [
        {
            "name": name,
            "confidence": each.confidence,
            "accuracy": each.accuracy,
            "count": each.count,
            "few": each.count < RARE_SUPPORT,
        }
        for each in bins
        if each.count
    ]
