"""Fit the calibration of a task on its validation rows, and report what it changes."""

from __future__ import annotations

import numpy as np

from mtl.data.problems import plural
from mtl.evaluation.calibration import brier, ece, nll, reliability_bins, temperature_for
from mtl.evaluation.counts import Integers, macro_f1
from mtl.evaluation.prior_tuning import prior_bias, tune_prior
from mtl.evaluation.records import CalibrationReport, CalibrationScores, ReliabilityBin
from mtl.model.decision import HIGHEST, LOWEST, Calibration, Floats

BINS = 15
"""The number of bins used in the literature, for reports on rows outside of a run."""
MIN_ROWS = 30
"""With fewer validation rows a fitted temperature is no better than none: measured by the likelihood of test rows, for
samples of the validation rows of two public data sets with 2 and 12 classes."""


def calibrate(
    logits: Floats, labels: Integers, counts: Integers, *, temperature: bool, tuned_prior: bool, seed: int
) -> tuple[Calibration, list[str]]:
    """Fit the calibration of a head on validation rows.

    The prior comes first, then the temperature of the adjusted logits, so that the predicted class is the most probable
    one.

    Args:
        logits: ``(N, C)`` of the validation rows.
        labels: ``(N,)``.
        counts: The training rows of each class, ``(C,)``.
        temperature: Whether to fit a temperature.
        tuned_prior: Whether to remove the class prior as far as that improves macro-F1.
        seed: Of the bootstrap that keeps the prior's strength from fitting noise.

    Returns:
        The calibration, and notes for the reader.
    """
    if not (temperature or tuned_prior):
        return Calibration(), []
    if len(labels) < MIN_ROWS:
        rows = plural(len(labels), "validation row")
        return Calibration(), [f"{rows}, too few to calibrate on: probabilities are the head's own (T = 1)."]
    if not np.isfinite(logits).all():
        return Calibration(), ["the head's outputs are not finite: not calibrated. Did the training diverge?"]
    tau = tune_prior(logits, labels, counts, seed=seed) if tuned_prior else 0.0
    bias = tuple(prior_bias(counts, tau).tolist()) if tau else None
    adjustment = Calibration(bias=bias, tau=tau)
    if not temperature:
        return adjustment, []
    fitted = temperature_for(adjustment.adjusted(logits), labels)
    return Calibration(fitted, bias, tau), _notes(fitted)


def _notes(temperature: float) -> list[str]:
    if temperature == LOWEST:
        return [
            f"the temperature is at its lower end, {LOWEST:g}: on validation the head is correct far more often than "
            "its probabilities say. Train it longer, or at a higher rate."
        ]
    if temperature == HIGHEST:
        return [
            f"the temperature is at its upper end, {HIGHEST:g}: on validation the head's probabilities say nothing "
            "about the classes."
        ]
    return []


def calibration_report(
    logits: Floats, labels: Integers, calibration: Calibration, bins: int
) -> CalibrationReport | None:
    """Return the metrics of a head's probabilities before and after calibration; None if its logits are not finite.

    Calibration error and reliability diagram have ``bins`` bins.
    """
    if not np.isfinite(logits).all():
        return None
    before, of_the_head = _scores(logits, labels, Calibration(), bins)
    after, reliability = _scores(logits, labels, calibration, bins)
    return CalibrationReport(before, after, calibration.temperature, calibration.tau, reliability, of_the_head)


def _scores(
    logits: Floats, labels: Integers, calibration: Calibration, bins: int
) -> tuple[CalibrationScores, list[ReliabilityBin]]:
    probabilities = calibration.probabilities(logits)
    predicted = calibration.predicted(logits)
    reliability = reliability_bins(probabilities, labels, bins)
    scores = CalibrationScores(
        ece=ece(reliability),
        nll=nll(calibration.adjusted(logits) / calibration.temperature, labels),
        brier=brier(probabilities, labels),
        accuracy=float((predicted == labels).mean()) if len(labels) else 0.0,
        macro_f1=macro_f1(labels, predicted, logits.shape[1]),
    )
    return scores, reliability
