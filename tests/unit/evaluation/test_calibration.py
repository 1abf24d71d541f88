"""Calibration by hand and fitted: temperatures, bins, figures of probabilities, and when nothing is fitted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from mtl.evaluation.calibration import (
    MIN_ROWS,
    brier,
    calibrate,
    calibration_report,
    ece,
    nll,
    reliability_bins,
    temperature_for,
)
from mtl.evaluation.prior_tuning import prior_bias
from mtl.evaluation.records import ReliabilityBin
from mtl.model.decision import HIGHEST, LOWEST, Calibration, log_softmax
from tests.unit.evaluation.test_prior_tuning import COUNTS, long_tail


def test_a_temperature_by_hand() -> None:
    """Two classes, logits (1, 0), right in 8 of 10 rows: the smoothed share sets the logit ``1 / T``."""
    labels = np.array([0] * 8 + [1] * 2)
    share = (8 * 11 / 12 + 2 * 1 / 12) / 10
    expected = 1 / math.log(share / (1 - share))
    assert temperature_for(np.array([[1.0, 0.0]] * 10), labels) == pytest.approx(expected, rel=1e-9)


def test_a_temperature_that_was_put_on_is_found() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(20_000, 5)) * 2
    labels = np.array([random.choice(5, p=row) for row in np.exp(log_softmax(logits))])
    for factor in (0.25, 1.0, 4.0):
        assert temperature_for(logits * factor, labels) == pytest.approx(factor, rel=0.04)


def test_all_rows_right_is_no_reason_to_be_sure_without_end() -> None:
    logits = np.array([[2.0, 0.0]] * 40)
    found = temperature_for(logits, np.zeros(40, dtype=int))
    assert Calibration(found).probabilities(logits)[0, 0] == pytest.approx(41 / 42)


@pytest.mark.parametrize(("scale", "right", "expected"), [(1e-3, True, LOWEST), (1e3, False, HIGHEST)])
def test_a_temperature_stays_in_its_range(scale: float, right: bool, expected: float) -> None:
    labels = np.arange(90) % 3
    predicted = labels if right else (labels + 1) % 3
    assert temperature_for(np.eye(3)[predicted] * scale, labels) == expected


@pytest.mark.parametrize("logits", [np.empty((0, 3)), np.full((4, 3), 0.1), np.array([[7.0], [1.0]])])
def test_where_no_temperature_changes_anything_it_is_1(logits: np.ndarray) -> None:
    assert temperature_for(logits, np.zeros(len(logits), dtype=int)) == 1.0


def test_one_row_and_a_class_without_rows() -> None:
    assert LOWEST <= temperature_for(np.array([[1.0, 0.5, -1.0]]), np.array([1])) <= HIGHEST
    logits = np.array([[2.0, 0.0, 5.0], [0.0, 1.0, -5.0], [3.0, 0.0, 0.0]])
    assert LOWEST < temperature_for(logits, np.array([0, 1, 0])) < HIGHEST


def test_log_probabilities_are_logits() -> None:
    random = np.random.default_rng(1)
    logits, labels = random.normal(size=(50, 4)) * 3, random.integers(0, 4, 50)
    assert temperature_for(log_softmax(logits), labels) == pytest.approx(temperature_for(logits, labels))
    assert nll(log_softmax(logits), labels) == pytest.approx(nll(logits, labels))


def test_reliability_bins_by_hand() -> None:
    """0.5 lies on a border and belongs to the bin below; 1.0 lies in the last one."""
    probabilities = np.array([[0.5, 0.5], [0.4, 0.6], [0.2, 0.8], [1.0, 0.0], [0.0, 1.0]])
    below, above = reliability_bins(probabilities, np.array([0, 1, 0, 0, 0]), bins=2)
    assert below == ReliabilityBin(0.0, 0.5, 1, 0.5, 1.0)
    assert (above.lower, above.upper, above.count, above.accuracy) == (0.5, 1.0, 4, 0.5)
    assert above.confidence == pytest.approx(0.85)


def test_ece_by_hand() -> None:
    bins = [
        ReliabilityBin(0.0, 0.5, 1, 0.5, 1.0),
        ReliabilityBin(0.5, 0.9, 0, 0.0, 0.0),
        ReliabilityBin(0.9, 1.0, 3, 0.95, 0.75),
    ]
    assert ece(bins) == pytest.approx((1 * 0.5 + 3 * 0.2) / 4)
    assert ece([]) == 0.0


@pytest.mark.parametrize("classes", [2, 5, 40])
@pytest.mark.parametrize("bins", [2, 10, 15])
def test_ece_equals_a_plain_computation_and_torchmetrics(classes: int, bins: int) -> None:
    random = np.random.default_rng(classes)
    logits = random.normal(size=(400, classes)) * 3
    labels = np.where(random.random(400) < 0.7, logits.argmax(axis=1), random.integers(0, classes, 400))
    probabilities = np.exp(log_softmax(logits))
    found = ece(reliability_bins(probabilities, labels, bins))
    plain = 0.0
    for at in range(bins):
        rows = [row for row in range(400) if at / bins < probabilities[row].max() <= (at + 1) / bins]
        right = sum(probabilities[row].argmax() == labels[row] for row in rows)
        plain += abs(right - sum(probabilities[row].max() for row in rows)) / 400
    assert found == pytest.approx(plain)
    peer = multiclass_calibration_error(torch.from_numpy(probabilities), torch.from_numpy(labels), classes, bins, "l1")
    assert found == pytest.approx(peer.item(), abs=1e-6)  # it sums in float32


def test_nll_and_brier_by_hand() -> None:
    probabilities, labels = np.array([[0.8, 0.2], [0.4, 0.6]]), np.array([0, 0])
    assert nll(np.log(probabilities), labels) == pytest.approx(-(math.log(0.8) + math.log(0.4)) / 2)
    assert brier(probabilities, labels) == pytest.approx((0.08 + 0.72) / 2)
    assert brier(np.array([[1.0, 0.0], [0.0, 1.0]]), labels) == 1.0
    assert nll(np.array([[1e4, 0.0]]), np.array([1])) == 1e4  # where the probability itself is 0
    assert nll(np.empty((0, 2)), np.empty(0, dtype=int)) == brier(np.empty((0, 2)), np.empty(0, dtype=int)) == 0.0


def test_bins_without_rows() -> None:
    found = reliability_bins(np.empty((0, 3)), np.empty(0, dtype=int), bins=4)
    assert [(each.lower, each.upper, each.count) for each in found] == [
        (0.0, 0.25, 0),
        (0.25, 0.5, 0),
        (0.5, 0.75, 0),
        (0.75, 1.0, 0),
    ]
    assert ece(found) == 0.0


def test_the_label_comes_from_the_logits_where_rounding_makes_probabilities_equal() -> None:
    logits = np.array([[1.0, np.nextafter(np.float32(1), np.float32(2))]], dtype=np.float32)
    calibration = Calibration(temperature=HIGHEST)
    rounded = calibration.probabilities(logits).astype(np.float32)
    assert rounded[0, 0] == rounded[0, 1]
    assert calibration.predicted(logits).tolist() == [1]


def test_a_bias_moves_labels_and_probabilities_alike() -> None:
    logits = np.array([[1.0, 0.0, -1.0]])
    calibration = Calibration(temperature=2.0, bias=(0.0, 3.0, 0.0))
    assert calibration.predicted(logits).tolist() == [1]
    weights = [math.exp(0.5), math.exp(1.5), math.exp(-0.5)]
    assert calibration.probabilities(logits)[0].tolist() == pytest.approx([each / sum(weights) for each in weights])


def test_the_temperature_is_fitted_to_the_adjusted_logits() -> None:
    logits, labels = long_tail(5000)
    found, notes = calibrate(logits, labels, COUNTS, temperature=True, tuned_prior=True, seed=0)
    assert found.tau > 0
    assert found.bias == tuple(prior_bias(COUNTS, found.tau).tolist())
    assert found.temperature == temperature_for(logits + prior_bias(COUNTS, found.tau), labels)
    assert notes == []


def test_each_of_the_two_alone_and_neither() -> None:
    logits, labels = long_tail(5000)
    scaled, _ = calibrate(logits, labels, COUNTS, temperature=True, tuned_prior=False, seed=0)
    assert (scaled.bias, scaled.tau) == (None, 0.0)
    assert scaled.temperature == temperature_for(logits, labels) != 1.0
    ruled, _ = calibrate(logits, labels, COUNTS, temperature=False, tuned_prior=True, seed=0)
    assert ruled.temperature == 1.0
    assert ruled.bias is not None
    assert calibrate(logits, labels, COUNTS, temperature=False, tuned_prior=False, seed=0) == (Calibration(), [])


@pytest.mark.parametrize(
    ("rows", "found"),
    [(0, "0 validation rows"), (1, "1 validation row"), (MIN_ROWS - 1, f"{MIN_ROWS - 1} validation rows")],
)
def test_too_few_rows(rows: int, found: str) -> None:
    logits, labels = long_tail(MIN_ROWS)
    assert calibrate(logits[:rows], labels[:rows], COUNTS, temperature=True, tuned_prior=True, seed=0) == (
        Calibration(),
        [f"{found}, too few to calibrate on: probabilities are the head's own (T = 1)."],
    )
    assert calibrate(logits, labels, COUNTS, temperature=True, tuned_prior=False, seed=0)[0] != Calibration()


def test_a_diverged_training_is_not_calibrated() -> None:
    logits, labels = long_tail(MIN_ROWS)
    logits[3, 1] = math.nan
    assert calibrate(logits, labels, COUNTS, temperature=True, tuned_prior=False, seed=0) == (
        Calibration(),
        ["the head's outputs are not finite: not calibrated. Did the training diverge?"],
    )
    assert calibration_report(logits, labels, Calibration(), bins=5) is None


@pytest.mark.parametrize(
    ("scale", "right", "end", "note"),
    [
        (
            1e-3,
            True,
            LOWEST,
            "the temperature is at its lower end, 0.01: on validation the head is correct far more often than its "
            "probabilities say. Train it longer, or at a higher rate.",
        ),
        (
            1e3,
            False,
            HIGHEST,
            "the temperature is at its upper end, 100: on validation the head's probabilities say nothing about "
            "the classes.",
        ),
    ],
)
def test_a_temperature_at_an_end_is_said(scale: float, right: bool, end: float, note: str) -> None:
    labels = np.arange(90) % 3
    logits = np.eye(3)[labels if right else (labels + 1) % 3] * scale
    found, notes = calibrate(logits, labels, COUNTS, temperature=True, tuned_prior=False, seed=0)
    assert (found.temperature, notes) == (end, [note])


def test_the_report_has_the_figures_without_and_with_it() -> None:
    logits, labels = long_tail(5000)
    logits *= 2  # too sure
    found, _ = calibrate(logits, labels, COUNTS, temperature=True, tuned_prior=False, seed=0)
    report = calibration_report(logits, labels, found, bins=15)
    assert report is not None
    assert report.temperature == found.temperature
    assert report.after.ece < report.before.ece / 2
    assert report.after.nll < report.before.nll
    assert report.after.brier < report.before.brier
    assert report.after.accuracy == report.before.accuracy == (logits.argmax(axis=1) == labels).mean()
    assert sum(each.count for each in report.bins) == 5000
    gap = sum(each.count * abs(each.confidence - each.accuracy) for each in report.bins) / 5000
    assert report.after.ece == pytest.approx(gap)


def test_the_report_of_no_rows() -> None:
    report = calibration_report(np.empty((0, 3)), np.empty(0, dtype=int), Calibration(), bins=5)
    assert report is not None
    assert (report.before.ece, report.before.accuracy, report.before.macro_f1) == (0.0, 0.0, 0.0)
