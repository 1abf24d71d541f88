"""Calibration of any logits: labels stay, probabilities stay probabilities, and the temperature is the best one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from mtl.evaluation.calibration import (
    MIN_ROWS,
    calibrate,
    calibration_report,
    ece,
    reliability_bins,
    temperature_for,
)
from mtl.model.decision import HIGHEST, LOWEST, Calibration, log_softmax

Rows = tuple[NDArray[np.float32], NDArray[np.int64]]
TEMPERATURES = st.floats(LOWEST, HIGHEST)


@st.composite
def scored_rows(draw: st.DrawFn, least: int = 1, most: int = 40) -> Rows:
    """Draw float32 logits, many of them equal or nearly so, and labels; classes may stay without rows."""
    rows, classes = draw(st.integers(least, most)), draw(st.integers(2, 6))
    steps = draw(st.sampled_from([1.0, 1e-6, 30.0]))
    logits = draw(arrays(np.float32, (rows, classes), elements=st.floats(-8, 8, width=16)))
    labels = draw(arrays(np.int64, rows, elements=st.integers(0, classes - 1)))
    return (logits * np.float32(steps) + np.float32(steps == 1e-6)).astype(np.float32), labels


@given(scored_rows(), TEMPERATURES)
@settings(deadline=None)
def test_a_temperature_changes_no_label(drawn: Rows, temperature: float) -> None:
    logits, _ = drawn
    calibration = Calibration(temperature)
    predicted = calibration.predicted(logits)
    assert np.array_equal(predicted, logits.argmax(axis=1))
    for probabilities in (calibration.probabilities(logits), calibration.probabilities(logits).astype(np.float32)):
        most = probabilities[np.arange(len(logits)), predicted]
        assert np.array_equal(most, probabilities.max(axis=1))  # a most probable class, perhaps one of several


@given(scored_rows(), TEMPERATURES, st.data())
@settings(deadline=None)
def test_probabilities_sum_to_1(drawn: Rows, temperature: float, data: st.DataObject) -> None:
    logits, _ = drawn
    bias = data.draw(st.lists(st.floats(-20, 20), min_size=logits.shape[1], max_size=logits.shape[1]))
    found = Calibration(temperature, tuple(bias)).probabilities(logits)
    assert found.min() >= 0
    assert found.sum(axis=1) == pytest.approx(np.ones(len(logits)))


@given(scored_rows(), TEMPERATURES)
@settings(deadline=None)
def test_no_other_temperature_makes_the_targets_more_likely(drawn: Rows, other: float) -> None:
    logits, labels = drawn
    found = temperature_for(logits, labels)
    assert LOWEST <= found <= HIGHEST
    assert smoothed_nll(logits, labels, found) <= smoothed_nll(logits, labels, other) + 1e-9


def smoothed_nll(logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float) -> float:
    rows, classes = logits.shape
    rest = 1 / (rows + 2)
    targets = np.full((rows, classes), rest / (classes - 1))
    targets[np.arange(rows), labels] = 1 - rest
    return float(-(targets * log_softmax(logits.astype(np.float64) / temperature)).sum() / rows)


@given(scored_rows(), st.floats(-50, 50))
@settings(deadline=None)
def test_a_constant_on_the_logits_changes_no_temperature(drawn: Rows, shift: float) -> None:
    logits, labels = drawn[0].astype(np.float64), drawn[1]
    if np.ptp(logits, axis=1).max() > 1e-3:  # what is smaller drowns in the rounding of the sum
        assert temperature_for(logits + shift, labels) == pytest.approx(temperature_for(logits, labels), rel=1e-4)


@given(scored_rows(), st.integers(1, 30))
@settings(deadline=None)
def test_every_row_stands_in_one_bin(drawn: Rows, bins: int) -> None:
    logits, labels = drawn
    found = reliability_bins(Calibration().probabilities(logits), labels, bins)
    assert [each.lower for each in found[1:]] == [each.upper for each in found[:-1]]
    assert (found[0].lower, found[-1].upper, len(found)) == (0.0, 1.0, bins)
    assert sum(each.count for each in found) == len(labels)
    right = sum(each.count * each.accuracy for each in found)
    assert right == pytest.approx((logits.argmax(axis=1) == labels).sum())
    assert all(each.lower - 1e-9 <= each.confidence <= each.upper + 1e-9 for each in found if each.count)
    assert 0 <= ece(found) <= 1


@given(scored_rows(least=MIN_ROWS, most=60), st.booleans())
@settings(deadline=None, max_examples=40)
def test_the_figures_of_classes_change_only_with_a_tuned_rule(drawn: Rows, tuned: bool) -> None:
    logits, labels = drawn
    counts = np.arange(1, logits.shape[1] + 1)
    calibration, _ = calibrate(logits, labels, counts, temperature=True, tuned_prior=tuned, seed=0)
    report = calibration_report(logits, labels, calibration, bins=10)
    assert report is not None
    if calibration.bias is None:
        assert report.tau == 0.0
        assert (report.before.accuracy, report.before.macro_f1) == (report.after.accuracy, report.after.macro_f1)
    else:
        assert tuned
        assert report.after.macro_f1 > report.before.macro_f1  # on the rows that it was chosen on
