"""The prediction of a task for a sentence: label, probabilities, labels that cannot be ruled out, abstention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

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


def predictions_of(
    logits: NDArray[np.float32], calibration: Calibration, labels: Sequence[str], tree: LabelTree | None
) -> list[Prediction]:
    """Return the predictions of ``N`` rows from the logits ``(N, C)`` of a head, with its tree if it has stages."""
    probabilities = calibration.probabilities(logits).astype(np.float32).tolist()
    predictions = [
        Prediction(labels[best], dict(zip(labels, row, strict=True)))
        for best, row in zip(calibration.predicted(logits).tolist(), probabilities, strict=True)
    ]
    return predictions if tree is None else [replace(row, coarse=_coarse(row, tree)) for row in predictions]


def _coarse(prediction: Prediction, tree: LabelTree) -> Prediction:
    sums = {name: sum(prediction.probabilities[leaf] for leaf in leaves) for name, leaves in tree.branches.items()}
    return Prediction(max(sums, key=sums.__getitem__), sums)


def with_levels(
    predictions: Sequence[Prediction], outcomes: Outcomes, coverage: float | None, max_risk: float | None
) -> list[Prediction]:
    """Return calibrated predictions with their sets of labels and whether to abstain, as far as asked for."""
    least = None if coverage is None else outcomes.set_thresholds(coverage).tolist()
    threshold = None if max_risk is None else outcomes.answer_threshold(max_risk)
    added = []
    for row in predictions:
        if least is not None:
            shares = zip(row.probabilities.items(), least, strict=True)
            row = replace(row, label_set=tuple(label for (label, value), low in shares if value >= low))
        if threshold is not None:
            row = replace(row, abstain=row.probabilities[row.label] < threshold)
        added.append(row)
    return added


def as_json(prediction: Prediction, decimals: int | None = None) -> dict[str, Any]:
    """Return a prediction as the JSON of files and of the server has it, without what was not asked for."""
    shares = prediction.probabilities
    if decimals is not None:
        shares = {label: round(value, decimals) for label, value in shares.items()}
    content: dict[str, Any] = {"label": prediction.label, "probabilities": shares}
    if prediction.coarse is not None:
        content["coarse"] = as_json(prediction.coarse, decimals)
    if prediction.label_set is not None:
        content["set"] = prediction.label_set
    if prediction.abstain is not None:
        content["abstain"] = prediction.abstain
    return content
