"""Calibration of a task: fit it on validation rows, and measure how far probabilities can be trusted.

Notation: ``N`` rows, ``C`` classes, ``B`` bins; logits ``z`` and probabilities have shape ``(N, C)`` and are finite,
labels ``(N,)`` are integers from 0 to ``C - 1``. All sums run in float64. The outputs of a head may also be
log-probabilities, which are logits of the same probabilities.
"""

from __future__ import annotations

import math

import numpy as np

from mtl.data.problems import plural
from mtl.evaluation.counts import Integers, macro_f1
from mtl.evaluation.prior_tuning import prior_bias, tune_prior
from mtl.evaluation.records import CalibrationReport, CalibrationScores, ReliabilityBin
from mtl.model.decision import HIGHEST, LOWEST, Calibration, Floats, log_softmax

BINS = 15
"""The number of bins used in the literature, for reports on rows outside of a run."""
MIN_ROWS = 30
"""With fewer validation rows a fitted temperature is no better than none: measured by the likelihood of test rows, for
samples of the validation rows of two public data sets with 2 and 12 classes."""
_HALVINGS = 50  # of the range of log T: to the last bits of a float


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


def temperature_for(logits: Floats, labels: Integers) -> float:
    """Return the temperature that makes the labels of the rows most likely.

    Temperature scaling: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2. As a function of
    ``b = 1 / T`` the mean negative log-likelihood ``logsumexp(b z) - b z_y`` is convex, and its slope
    ``mean(E_p[z] - z_y)`` increases with ``b``: bisection of the range of ``log T`` finds its root.

    The targets are those of Platt 1999 ("Probabilistic Outputs for Support Vector Machines", section 2.2): the true
    class has ``(N + 1) / (N + 2)``, the others share the rest. With targets of 1 the temperature goes to 0 where all
    rows are correct, which is common with some dozens of rows; with hundreds of rows the two hardly differ.

    Returns:
        The temperature from `LOWEST` to `HIGHEST`: an end where the likelihood still increases there, and 1.0 where no
        temperature changes it, as without rows or where all logits of each row are equal.
    """
    z = logits.astype(np.float64)
    z -= z[:, :1]  # changes no probability, and makes rows with equal logits 0
    if not z.any():
        return 1.0
    rest = 1 / (len(z) + 2)
    true = z[np.arange(len(z)), labels]
    target = (1 - rest) * true + rest * (z.sum(axis=1) - true) / (z.shape[1] - 1)

    def too_low(log_temperature: float) -> bool:
        """Whether a greater temperature is more likely: the slope in ``b`` is positive."""
        probabilities = np.exp(log_softmax(z * math.exp(-log_temperature)))
        return bool(np.mean((probabilities * z).sum(axis=1) - target) > 0)

    low, high = math.log(LOWEST), math.log(HIGHEST)
    if not too_low(low):
        return LOWEST
    if too_low(high):
        return HIGHEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if too_low(middle) else (low, middle)
    return math.exp((low + high) / 2)


def reliability_bins(probabilities: Floats, labels: Integers, bins: int) -> list[ReliabilityBin]:
    """Return the accuracy of the rows of each confidence: the bars of a reliability diagram.

    The confidence of a row is the probability of its most probable class. The bins have equal widths and include their
    upper ends: ``(lower, upper]``, as in Guo et al. 2017, equation 2. All ``B`` of them are returned, also those
    without rows.
    """
    confidence = probabilities.max(axis=1, initial=0.0).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels if len(labels) else np.empty(0, dtype=bool)
    edges = np.linspace(0, 1, bins + 1)
    at = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(at, minlength=bins)
    sums = [np.bincount(at, weights=values, minlength=bins) for values in (confidence, right)]
    means = [(total / np.maximum(counts, 1)).tolist() for total in sums]
    return [
        ReliabilityBin(*values)
        for values in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), *means, strict=True)
    ]


def ece(bins: list[ReliabilityBin]) -> float:
    """Return the expected calibration error: the mean gap of accuracy and confidence, each bin weighted by its rows.

    Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", with the confidence of the
    predicted class as in Guo et al. 2017, equation 3. It is 0.0 without rows.
    """
    rows = sum(group.count for group in bins)
    return sum(group.count * abs(group.accuracy - group.confidence) for group in bins) / max(rows, 1)


def nll(logits: Floats, labels: Integers) -> float:
    """Return the mean negative log-likelihood of the true classes in nats; 0.0 without rows.

    It is computed from logits, since probabilities that are rounded to 0 would make it infinite.
    """
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].sum() / max(len(labels), 1))


def brier(probabilities: Floats, labels: Integers) -> float:
    """Return the Brier score, 0 (best) to 2: the mean over rows of ``sum_c (p_c - [c = y])^2``; 0.0 without rows.

    Brier 1950, "Verification of Forecasts Expressed in Terms of Probability", equation 2, with all classes summed.
    """
    gaps = probabilities.astype(np.float64)
    gaps[np.arange(len(labels)), labels] -= 1
    return float((gaps**2).sum() / max(len(labels), 1))


def calibration_report(
    logits: Floats, labels: Integers, calibration: Calibration, bins: int
) -> CalibrationReport | None:
    """Return the metrics of a head's probabilities before and after calibration; None if its logits are not finite."""
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
