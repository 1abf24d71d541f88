"""Fit a task's calibration on its validation rows, and report what it changes."""

from __future__ import annotations

import numpy as np

from mtl.evaluation.calibration import Integers, brier, ece, nll, reliability_bins, temperature_for
from mtl.evaluation.prior_tuning import macro_f1, prior_bias, tune_prior
from mtl.evaluation.records import CalibrationReport, CalibrationScores, ReliabilityBin
from mtl.model.decision import HIGHEST, LOWEST, Calibration, Floats

BINS = 15
"""Of a report on rows that no run's configuration speaks of; the number that the literature uses."""
MIN_ROWS = 30
"""With fewer validation rows a fitted temperature is no better than none: measured by the likelihood of test rows, over
draws from the validation rows of two public data sets with 2 and 12 classes."""


def calibrate(
    logits: Floats, labels: Integers, counts: Integers, *, temperature: bool, tuned_prior: bool, seed: int
) -> tuple[Calibration, list[str]]:
    """Fit on validation rows what stands between a head's logits and the probabilities that are given out.

    The prior first, then the temperature of the adjusted logits, so that the most probable class stays the predicted
    one.

    Args:
        logits: ``(N, C)`` of the validation rows.
        labels: ``(N,)``.
        counts: The training rows of each class, ``(C,)``.
        temperature: Whether to scale by a temperature.
        tuned_prior: Whether to take the prior out as far as macro-F1 gains by it.
        seed: Draws the bootstrap that keeps the prior's strength from fitting noise.

    Returns:
        The calibration, and what a reader must know of it.
    """
    if not (temperature or tuned_prior):
        return Calibration(), []
    if len(labels) < MIN_ROWS:
        rows = f"{len(labels)} validation row{'' if len(labels) == 1 else 's'}"
        return Calibration(), [f"{rows}, too few to calibrate on: probabilities are the head's own (T = 1)."]
    if not np.isfinite(logits).all():
        return Calibration(), ["the head's outputs are not finite: not calibrated. Did the training diverge?"]
    tau = tune_prior(logits, labels, counts, seed=seed) if tuned_prior else 0.0
    bias = tuple(prior_bias(counts, tau).tolist()) if tau else None
    found = Calibration(bias=bias, tau=tau)
    if not temperature:
        return found, []
    fitted = temperature_for(found.adjusted(logits), labels)
    return Calibration(fitted, bias, tau), _at_an_end(fitted)


def _at_an_end(temperature: float) -> list[str]:
    if temperature == LOWEST:
        return [
            f"the temperature stands at its lower end, {LOWEST:g}: on validation the head is right far more often than "
            "its probabilities say. Train it longer, or at a higher rate."
        ]
    if temperature == HIGHEST:
        return [
            f"the temperature stands at its upper end, {HIGHEST:g}: on validation the head's probabilities say nothing "
            "about the classes."
        ]
    return []


def calibration_report(
    logits: Floats, labels: Integers, calibration: Calibration, bins: int
) -> CalibrationReport | None:
    """Return the figures of a head's own probabilities and of the calibrated ones; None if some are not finite.

    Args:
        logits: The head's own, ``(N, C)``.
        labels: ``(N,)``.
        calibration: What is applied to them.
        bins: Bins of the calibration error and of the reliability diagram.
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
