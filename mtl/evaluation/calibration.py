"""Calibration metrics of probabilities, and the temperature that improves them.

Pure functions on arrays. Notation: ``N`` rows, ``C`` classes, ``B`` bins; logits ``z`` and probabilities have shape
``(N, C)``, labels ``(N,)`` are integers from 0 to ``C - 1``, which `check_rows` checks. All sums run in float64. The
outputs of a head may also be log-probabilities, which are logits of the same probabilities.
"""

from __future__ import annotations

import math

import numpy as np

from mtl.evaluation.counts import Integers
from mtl.evaluation.records import ReliabilityBin
from mtl.model.decision import HIGHEST, LOWEST, Floats, log_softmax

_HALVINGS = 50  # of the range of log T: to the last bits of a float


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
    check_rows(logits, labels)
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
    if bins < 1:
        raise ValueError(f"expected at least 1 bin, found {bins}")
    _check_probabilities(probabilities, labels)
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
    check_rows(logits, labels)
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].sum() / max(len(labels), 1))


def brier(probabilities: Floats, labels: Integers) -> float:
    """Return the Brier score, 0 (best) to 2: the mean over rows of ``sum_c (p_c - [c = y])^2``; 0.0 without rows.

    Brier 1950, "Verification of Forecasts Expressed in Terms of Probability", equation 2, with all classes summed.
    """
    _check_probabilities(probabilities, labels)
    gaps = probabilities.astype(np.float64)
    gaps[np.arange(len(labels)), labels] -= 1
    return float((gaps**2).sum() / max(len(labels), 1))


def check_rows(values: Floats, labels: Integers) -> None:
    """Check values ``(N, C)`` and labels ``(N,)``.

    Raises:
        ValueError: The shapes do not fit, a label is no class, or a value is not finite.
    """
    if values.ndim != 2 or values.shape[1] < 1 or labels.shape != values.shape[:1]:
        raise ValueError(f"expected values (N, C) and labels (N,), found {values.shape} and {labels.shape}")
    classes = values.shape[1]
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"expected labels from 0 to {classes - 1}, found {labels.min()} to {labels.max()}")
    if not np.isfinite(values).all():
        raise ValueError(f"expected finite values, found {np.count_nonzero(~np.isfinite(values))} that are not")


def _check_probabilities(probabilities: Floats, labels: Integers) -> None:
    check_rows(probabilities, labels)
    if len(labels) and not (probabilities.min() >= 0 and probabilities.max() <= 1):
        lowest, highest = probabilities.min(), probabilities.max()
        raise ValueError(f"expected probabilities from 0 to 1, found {lowest:g} to {highest:g}")
