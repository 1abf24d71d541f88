"""Figures of prediction sets and abstention on rows that their thresholds do not come from."""

from __future__ import annotations

import numpy as np
import pytest

from mtl.evaluation.scoring import COVERAGES, RISKS, answering_report
from mtl.model.conformal import Outcomes

PROBABILITIES = np.array([[0.95, 0.05], [0.6, 0.4], [0.3, 0.7], [0.45, 0.55]])
PREDICTED = PROBABILITIES.argmax(axis=1)
LABELS = np.array([0, 1, 1, 1])


def test_sets() -> None:
    known = Outcomes(true=[[0.5] * 100, [0.6] * 100], right=[], wrong=[])
    report = answering_report(PROBABILITIES, PREDICTED, LABELS, known)
    assert [row.coverage for row in report.sets] == list(COVERAGES)
    for row in report.sets:  # the sets are {0}, {0}, {1} and none
        assert (row.covered, row.size, row.single, row.empty) == (0.5, 0.75, 0.75, 0.25)
        assert row.lowest == pytest.approx(1 / 3)


def test_answers() -> None:
    known = Outcomes(true=[[], []], right=[0.7] * 100, wrong=[0.5] * 50)
    report = answering_report(PROBABILITIES, PREDICTED, LABELS, known)
    assert [row.max_risk for row in report.answers] == list(RISKS)
    assert [(row.threshold, row.answered, row.wrong) for row in report.answers] == [
        (None, 0.0, None),  # a hundred rows without a mistake do not show that fewer than one in a hundred is wrong
        (0.7, 0.5, 0.0),
        (0.7, 0.5, 0.0),
    ]
