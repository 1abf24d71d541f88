"""Learning curves: a score as a function of the number of rows, fitted so that it can be read beyond the last point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXPONENTS = (0.0, 0.5, 1.0)
"""The shapes of `fit_curves`: from a straight line over ``log n``, which never saturates, to ``a - b / n``."""


def basis(rows: NDArray[np.floating], exponent: float) -> NDArray[np.float64]:
    """Return what a curve's gain is proportional to: ``log n`` for the exponent 0, else ``-n ** -exponent``.

    The second, moved and stretched to ``(1 - n ** -c) / c``, has the first as its limit for ``c`` towards 0.

    Args:
        rows: Numbers of rows, above 0.
        exponent: ``c``, at least 0.
    """
    counts = np.asarray(rows, dtype=np.float64)
    found: NDArray[np.float64] = np.log(counts) if exponent == 0 else (1.0 - counts**-exponent) / exponent
    return found


def gains(rows: NDArray[np.floating], scores: NDArray[np.floating], start: float, stop: float) -> NDArray[np.float64]:
    """Return what each curve gains from ``start`` to ``stop`` rows, by a fitted ``a - b * n ** -c``.

    Such inverse power laws describe how errors fall with data (Hestness et al. 2017, "Deep Learning Scaling is
    Predictable, Empirically"; Figueroa et al. 2012, "Predicting sample size required for classification performance").
    Few noisy points do not tell the exponent, so the gain is the mean over those of `EXPONENTS`, each weighted by the
    likelihood of the points, ``exp(-squared error / (2 * noise))``; ``a`` and ``b`` are least squares. The noise is
    what the best of them leave over in the mean of the ``M`` curves: where points lie on a curve exactly its exponent
    alone counts, and where they scatter all count about the same.

    Args:
        rows: Numbers of rows ``(K,)``, two different ones at least.
        scores: A score at each number of rows for ``M`` curves ``(M, K)``, samples of one.
        start: Rows that are there.
        stop: Rows that would be there.

    Returns:
        ``(M,)`` float64; negative for a curve that falls.
    """
    scores = np.asarray(scores, dtype=np.float64)
    found, errors = [], []
    for exponent in EXPONENTS:
        at = basis(rows, exponent)
        centred = at - at.mean()
        slope = scores @ centred / (centred @ centred)
        rest = scores - scores.mean(axis=1, keepdims=True) - slope[:, None] * centred
        found.append(slope * (basis(np.array(stop), exponent) - basis(np.array(start), exponent)))
        errors.append((rest**2).sum(axis=1))
    error = np.array(errors)
    least = error.min(axis=0)
    weight = np.exp((least - error) / (2 * least.mean() + 1e-12))
    gained: NDArray[np.float64] = (np.array(found) * weight).sum(axis=0) / weight.sum(axis=0)
    return gained
