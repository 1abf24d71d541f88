"""How prediction sets and abstention, whose thresholds come from validation rows, do on other rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from mtl.evaluation.records import AnswerFigures, AnsweringReport, SetFigures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mtl.model.conformal import Outcomes

COVERAGES: Final = (0.8, 0.9, 0.95)
RISKS: Final = (0.01, 0.05, 0.1)


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
