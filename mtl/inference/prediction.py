"""The prediction of a task for a sentence: label, probabilities, labels that cannot be ruled out, abstention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mtl.base.label_tree import LabelTree
    from mtl.model.conformal import Outcomes
    from mtl.model.decision import Calibration


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction of one task for a sentence.

    Attributes:
        label: The most probable label; where rounding makes two equal, the one whose logit is greater.
        probabilities: The probability of each label, in the order of the task's labels; they sum to 1.
        coarse: For a head with several stages, the most probable coarse class and the probability of each, the sum over
            its labels. ``label`` need not belong to it: a class of many labels may win although none of them does.
        label_set: With ``coverage``, the labels that cannot be ruled out; empty if all can be.
        abstain: With ``max_risk``, whether the model is too unsure to answer.
    """

    label: str
    probabilities: dict[str, float]
    coarse: Prediction | None = None
    label_set: tuple[str, ...] | None = None
    abstain: bool | None = None


def predictions_of(logits: NDArray[np.float32], calibration: Calibration, labels: Sequence[str]) -> list[Prediction]:
    """Return the predictions of ``N`` rows from the logits ``(N, C)`` of a head."""
    probabilities = calibration.probabilities(logits).astype(np.float32).tolist()
    return [
        Prediction(labels[best], dict(zip(labels, row, strict=True)))
        for best, row in zip(calibration.predicted(logits).tolist(), probabilities, strict=True)
    ]


def with_levels(
    predictions: Sequence[Prediction], outcomes: Outcomes, coverage: float | None, max_risk: float | None
) -> list[Prediction]:
    """Return calibrated predictions with their sets of labels and whether to abstain, as far as asked for."""
    added = list(predictions)
    if coverage is not None:
        least = outcomes.set_thresholds(coverage).tolist()
        added = [
            replace(
                row,
                label_set=tuple(
                    label for (label, value), low in zip(row.probabilities.items(), least, strict=True) if value >= low
                ),
            )
            for row in added
        ]
    if max_risk is not None:
        threshold = outcomes.answer_threshold(max_risk)
        added = [replace(row, abstain=row.probabilities[row.label] < threshold) for row in added]
    return added


def coarse_of(prediction: Prediction, tree: LabelTree) -> Prediction:
    """Return the most probable coarse class of a two-stage head, and the probability of each."""
    sums = {name: sum(prediction.probabilities[leaf] for leaf in leaves) for name, leaves in tree.branches.items()}
    return Prediction(max(sums, key=sums.__getitem__), sums)
