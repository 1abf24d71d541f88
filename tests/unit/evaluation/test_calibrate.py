"""Fitting a task's calibration: what it does, when it does nothing, and what it says of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtl.evaluation.calibrate import MIN_ROWS, calibrate, calibration_report
from mtl.evaluation.calibration import temperature_for
from mtl.evaluation.prior_tuning import prior_bias
from mtl.model.decision import HIGHEST, LOWEST, Calibration
from tests.unit.evaluation.test_prior_tuning import COUNTS, long_tail


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
