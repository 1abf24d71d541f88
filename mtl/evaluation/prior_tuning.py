"""Tune the decision rule on validation: how much of the class prior of the training rows to remove from the logits.

A head trained on imbalanced classes learns the prior, and rarely predicts rare classes. Post-hoc logit adjustment
(Menon et al. 2021, "Long-Tail Learning via Logit Adjustment", section 4.1) subtracts ``tau * log(prior)`` from the
logits: ``tau = 1`` is optimal for the balanced error, and macro-F1 needs less. A negative ``tau`` makes rare classes
rarer, which helps a head that was trained with class weights. Notation: ``N`` rows, ``C`` classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtl.evaluation.counts import Integers, f1_scores, macro_f1
from mtl.model.decision import Floats

TAUS = tuple(step / 4 for step in range(-4, 7))
"""The grid, -1.0 to 1.5: a finer one would fit noise of the validation rows."""

_RESAMPLES = 500  # a standard error to within 3 %


def prior_bias(counts: Integers, tau: float) -> NDArray[np.float64]:
    """Return the adjustment of the logits, ``-tau * log(prior)``, ``(C,)``, from the training rows of each class.

    Raises:
        ValueError: A class has no training row.
    """
    if counts.ndim != 1 or (counts < 1).any():
        raise ValueError(f"expected at least one training row of each class, found {counts.tolist()}")
    bias: NDArray[np.float64] = -tau * np.log(counts / counts.sum())
    return bias


def tune_prior(logits: Floats, labels: Integers, counts: Integers, *, seed: int) -> float:
    """Return the weakest ``tau`` of the grid whose macro-F1 is not clearly worse than the best one.

    Macro-F1 depends on a few rows of the rare classes, so the best of a grid is often the luckiest. The ``tau`` nearest
    to 0 whose macro-F1 lies within one standard error of the best is chosen, the rule of Breiman et al. 1984
    ("Classification and Regression Trees", section 3.4.3). The standard error is that of the difference of the two on
    the same rows, from a bootstrap over rows.

    Args:
        logits: ``(N, C)`` of the validation rows.
        labels: ``(N,)``.
        counts: The training rows of each class, ``(C,)``.
        seed: Of the bootstrap.
    """
    if not len(labels):
        return 0.0
    nearest = sorted(TAUS, key=lambda tau: (abs(tau), -tau))
    predicted = [(logits.astype(np.float64) + prior_bias(counts, tau)).argmax(axis=1) for tau in nearest]
    scores = [round(macro_f1(labels, classes, logits.shape[1]), 12) for classes in predicted]  # rounding is no gain
    best = int(np.argmax(scores))  # of several the nearest to 0
    for tau, classes, score in zip(nearest, predicted, scores, strict=True):
        if tau and score <= scores[0]:  # no better than doing nothing
            continue
        if scores[best] - score <= _standard_error(labels, predicted[best], classes, logits.shape[1], seed):
            return tau
    raise AssertionError("the best is within any distance of itself")


def _standard_error(labels: Integers, one: Integers, other: Integers, classes: int, seed: int) -> float:
    """Return the bootstrap's standard error of the difference in macro-F1 of two predictions of the same rows.

    Rows with the same label and the same two predictions are one kind; a resample draws the count of each kind.
    """
    kinds, counts = np.unique(np.stack([labels, one, other]), axis=1, return_counts=True)
    rows = len(labels)
    drawn = np.random.default_rng(seed).multinomial(rows, counts / rows, size=_RESAMPLES)
    gain = _resampled_f1(drawn, kinds[0], kinds[1], classes) - _resampled_f1(drawn, kinds[0], kinds[2], classes)
    return float(gain.std())


def _resampled_f1(drawn: Integers, labels: Integers, predicted: Integers, classes: int) -> NDArray[np.float64]:
    """Return the macro-F1 ``(R,)`` of ``R`` resamples ``(R, K)``, counts of ``K`` kinds of rows."""
    counts = drawn.astype(np.float64)  # whole numbers, which BLAS takes only as floats
    true, answered = (np.eye(classes)[ids] for ids in (labels, predicted))  # (K, C)
    right, both = counts @ (true * answered), counts @ (true + answered)  # (R, C)
    scores: NDArray[np.float64] = f1_scores(right, both).mean(axis=1)
    return scores
