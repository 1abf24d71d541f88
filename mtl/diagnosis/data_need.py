"""The gain from more rows of each class: learning curves in which one class is subsampled and the others are complete.

F1 is measured on rows that the heads have not seen, with bootstrap samples of the draws and of the rows, and fitted as
a function of the number of rows, which extrapolates beyond the last point. Notation: ``C`` classes, ``P`` points of
the learning curves, ``T`` draws, ``B`` bootstrap samples, ``N`` training rows, of which a draw holds out ``M``, and
``V`` validation rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from mtl.activations.encoding import tracked
from mtl.diagnosis.cross_validation import FOLDS, Rows, stratified_folds
from mtl.diagnosis.logistic_regression import Scaling, fit_heads, logits, predict_refitted, refit_columns
from mtl.evaluation.counts import f1_scores

SAMPLES = 400


@dataclass(frozen=True, slots=True)
class Draw:
    """The predictions of the heads of one draw for rows that they have not seen."""

    rows: NDArray[np.int64]  # the held-out training rows, ``(M,)``
    held_out: NDArray[np.int64]  # the predicted classes of these rows at each point, ``(P, M)``
    val: NDArray[np.int64]  # the predicted classes of the validation rows, ``(P, V)``


def bootstrapped_f1(
    draws: Sequence[Draw],
    train: NDArray[np.int64],
    val: NDArray[np.int64],
    classes: int,
    random: Generator,
    samples: int = SAMPLES,
) -> NDArray[np.float64]:
    """Return the F1 of every class at every point, from all rows, then from each bootstrap sample.

    Draws, and rows within each class, are sampled with replacement (Efron 1979). Samples are the same for all points,
    so that differences between points are paired. Training and validation rows give the rates of confusion between
    classes; F1 is that of these rates at the class balance of the validation rows.

    Args:
        draws: ``T`` draws.
        train: Class ids of the training rows ``(N,)``.
        val: Class ids of the validation rows ``(V,)``; there may be none.
        classes: ``C``.
        random: Determines the samples.
        samples: ``B``.

    Returns:
        ``(B + 1, P, C)``, that of all rows first.
    """
    of_train, of_val = _resampled(train, samples, random), _resampled(val, samples, random) / FOLDS
    of_draw = _resampled(np.zeros(len(draws), dtype=np.int64), samples, random)  # (B + 1, T)
    labels, val_labels = torch.from_numpy(train), torch.from_numpy(val)
    tested = []
    support = torch.zeros(classes, samples + 1)
    for number, draw in enumerate(draws):
        rows = torch.from_numpy(draw.rows)
        true = torch.cat([labels[rows], val_labels])
        weights = (torch.cat([of_train[:, rows], of_val], dim=1) * of_draw[:, number, None]).T.contiguous()
        support.index_add_(0, true, weights)
        tested.append((true, torch.from_numpy(np.concatenate([draw.held_out, draw.val], axis=1)), weights))
    # Rows are weighted by their share of their class, so that classes have the weight of their validation rows.
    share = torch.from_numpy(balance(train, val, classes)).float()[:, None]
    unit = share / support.clamp(min=1e-12)
    tested = [(true, predicted, weights * unit[true]) for true, predicted, weights in tested]
    present = share * (support > 0)
    taken, right = torch.zeros_like(support), torch.zeros_like(support)
    for true, predicted, weights in tested:
        _count(taken, right, true, predicted[0], weights)
    points = [(taken, right), *(_changed(tested, point, taken, right) for point in range(1, len(draws[0].val)))]
    scores = [f1_scores(right, (taken + present).double()).clamp(0, 1).numpy() for taken, right in points]
    return np.stack(scores).transpose(2, 0, 1)


_Tested = tuple[Tensor, Tensor, Tensor]
"""True classes ``(R,)``, predicted ones at each point ``(P, R)``, and weights in each sample ``(R, B + 1)``."""


def _count(taken: Tensor, right: Tensor, true: Tensor, predicted: Tensor, weights: Tensor, sign: int = 1) -> None:
    """Add weights of rows to those of all and of the correct rows predicted as each class, each ``(C, B + 1)``."""
    taken.index_add_(0, predicted, weights, alpha=sign)
    hit = predicted == true
    right.index_add_(0, predicted[hit], weights[hit], alpha=sign)


def _changed(tested: Sequence[_Tested], point: int, taken: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return the counts at another point than 0, updated by the few rows with another prediction."""
    taken, right = taken.clone(), right.clone()
    for true, predicted, weights in tested:
        rows = (predicted[point] != predicted[0]).nonzero()[:, 0]
        _count(taken, right, true[rows], predicted[0][rows], weights[rows], sign=-1)
        _count(taken, right, true[rows], predicted[point][rows], weights[rows])
    return taken, right


def balance(train: NDArray[np.int64], val: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Return each class's share of the validation rows; of all rows where a class has no validation row."""
    counts = np.bincount(val, minlength=classes)
    if not counts.all():
        counts = counts + np.bincount(train, minlength=classes)
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def _resampled(labels: NDArray[np.int64], samples: int, random: Generator) -> Tensor:
    """Return how often each row is in all rows (once) and in each bootstrap sample, ``(B + 1, N)``."""
    weights = np.ones((samples + 1, len(labels)), dtype=np.float32)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        weights[1:, rows] = random.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=samples)
    return torch.from_numpy(weights)


EXPONENTS = (0.0, 0.5, 1.0)
"""The exponents of `gains`: from a straight line over ``log n``, which never saturates, to ``a - b / n``."""


def basis(rows: NDArray[np.floating], exponent: float) -> NDArray[np.float64]:
    """Return ``(1 - n ** -c) / c`` for numbers of rows ``n``, or its limit ``log n`` for the exponent ``c`` = 0."""
    counts = np.asarray(rows, dtype=np.float64)
    values: NDArray[np.float64] = np.log(counts) if exponent == 0 else (1.0 - counts**-exponent) / exponent
    return values


def gains(rows: NDArray[np.floating], scores: NDArray[np.floating], start: float, stop: float) -> NDArray[np.float64]:
    """Return the gain of each curve from ``start`` to ``stop`` rows, by a fitted ``a - b * n ** -c``.

    Such inverse power laws describe how errors decrease with data (Hestness et al. 2017, "Deep Learning Scaling is
    Predictable, Empirically"; Figueroa et al. 2012, "Predicting sample size required for classification performance").
    Few noisy points do not determine the exponent, so the gain is the mean over `EXPONENTS`, weighted by the likelihood
    of the points, ``exp(-squared error / (2 * noise))``; ``a`` and ``b`` are least squares. The noise is the mean
    residual of the best fits of the ``M`` curves: where points lie exactly on a curve only its exponent counts, and
    where they scatter all exponents count about the same.

    Args:
        rows: Numbers of rows ``(K,)``, at least two different ones.
        scores: A score at each number of rows for ``M`` curves ``(M, K)``, samples of one.
        start: The present number of rows.
        stop: The number of rows with those to collect.

    Returns:
        ``(M,)`` float64; negative for a decreasing curve.
    """
    scores = np.asarray(scores, dtype=np.float64)
    gained, errors = [], []
    for exponent in EXPONENTS:
        at = basis(rows, exponent)
        centred = at - at.mean()
        slope = scores @ centred / (centred @ centred)
        rest = scores - scores.mean(axis=1, keepdims=True) - slope[:, None] * centred
        gained.append(slope * (basis(np.array(stop), exponent) - basis(np.array(start), exponent)))
        errors.append((rest**2).sum(axis=1))
    error = np.array(errors)
    least = error.min(axis=0)
    weight = np.exp((least - error) / (2 * least.mean() + 1e-12))
    mean: NDArray[np.float64] = (np.array(gained) * weight).sum(axis=0) / weight.sum(axis=0)
    return mean


FRACTIONS = (0.4, 0.65, 1.0)
"""Shares of the rows of a class. Points below 0.4 say little about the extrapolation; points nearer to 1 are too close
together to tell a slope from noise."""
LEAST_CLASS_ROWS = 10
"""Training rows that the curve of a class needs."""
MOST_WHOLE = 12
"""With more classes only the column of the subsampled class is refitted: the time of whole heads grows with the square
of the classes. On 77 overlapping classes the changes of macro-F1 correlated with those of whole heads by 0.95, with a
slope of 0.90: gains come out a tenth too small, in nearly the same order."""
_WORK = 1e6
"""Rows times fitted heads: about a minute on two CPU cores at 384 dimensions and 12 classes."""
_COLUMN_WORK = 1e7
"""Rows times fitted columns, with more than `MOST_WHOLE` classes."""
_MOST_DRAWS = 20
_LEAST_DRAWS = 4


@dataclass(frozen=True, slots=True)
class ClassNeed:
    """The estimated gain from more rows of a class."""

    label: str
    rows: int  # its training rows
    tested: int  # its rows that heads were tested on: training rows held out in turn, and validation rows
    gain: float  # the gain in macro-F1 from ``more`` rows
    low: float  # the lower end of the 90 % interval of ``gain``
    high: float  # the upper end
    supported: bool  # whether the gain exceeds the largest gain by chance among all classes, see `_supported`
    best: float  # the share of bootstrap samples in which this class gains more than every other
    own_gain: float  # the gain in the class's own F1
    curve_rows: NDArray[np.float64]  # numbers of its rows ``(K,)``
    curve: NDArray[np.float64]  # its own F1 at each, with low and high end of the 90 % interval ``(3, K)``
    macro: NDArray[np.float64]  # macro-F1 at each, the same way ``(3, K)``

    @property
    def enough(self) -> bool:
        """Whether there are enough rows for the estimate."""
        return self.rows >= LEAST_CLASS_ROWS


def data_need(
    train: Rows,
    val: Rows,
    labels: tuple[str, ...],
    penalty: float,
    more: int,
    random: Generator,
    title: str | None = None,
) -> list[ClassNeed]:
    """Return the estimated gain from ``more`` rows of each class, the largest first; there may be no validation rows.

    The penalty is that of `mtl.diagnosis.logistic_regression.fit_heads`, the title that of
    `mtl.activations.encoding.tracked`.
    """
    classes = len(labels)
    draws = _draws(train, val, classes, penalty, random, title)
    scores = bootstrapped_f1(draws, train.labels, val.labels, classes, random)  # (B + 1, P, C)
    counts = np.bincount(train.labels, minlength=classes)
    tested = counts + np.bincount(val.labels, minlength=classes)
    curves = np.stack([scores[:, _points(at)] for at in range(classes)], axis=1)  # (B + 1, C, K, C)
    rows = np.array(FRACTIONS) * np.maximum(counts, 1)[:, None] * (1 - 1 / FOLDS)  # (C, K)
    macro, own = curves.mean(axis=3), curves[:, range(classes), :, range(classes)].swapaxes(0, 1)
    ends = [(count, count + more) for count in np.maximum(counts, 1).tolist()]
    gained = np.stack([gains(rows[at], macro[:, at], *ends[at]) for at in range(classes)], axis=1)  # (B + 1, C)
    best = np.bincount(gained[1:].argmax(axis=1), minlength=classes) / (len(gained) - 1)
    supported = _supported(gained, counts >= LEAST_CLASS_ROWS)
    needs = [
        ClassNeed(
            label=label,
            rows=int(counts[at]),
            tested=int(tested[at]),
            gain=float(gained[0, at]),
            low=float(np.quantile(gained[1:, at], 0.05)),
            high=float(np.quantile(gained[1:, at], 0.95)),
            supported=bool(supported[at]),
            best=float(best[at]),
            own_gain=float(gains(rows[at], own[:, at], *ends[at])[0]),
            curve_rows=rows[at],
            curve=_band(own[:, at]),
            macro=_band(macro[:, at]),
        )
        for at, label in enumerate(labels)
    ]
    return sorted(needs, key=lambda need: -need.gain)


def _supported(gained: NDArray[np.float64], enough: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell which classes have a significant gain, ``(C,)``, at a family-wise error rate of 5 %.

    Of 77 classes without any gain four would have a 90 % interval above 0. So a class's gain, in units of its standard
    error, has to exceed the 95 % quantile of the largest error among all classes in the bootstrap samples (the
    single-step max-T procedure: Westfall & Young 1993, "Resampling-Based Multiple Testing"), and its own interval has
    to be above 0. The gains ``(B + 1, C)`` are those from all rows, then from each sample; only classes that have
    ``enough`` rows, ``(C,)``, are considered.
    """
    if not enough.any():
        return enough
    errors = gained[1:] - gained[1:].mean(axis=0)
    spread = np.maximum(errors.std(axis=0), 1e-9)
    largest = np.quantile((errors / spread)[:, enough].max(axis=1), 0.95)
    shown: NDArray[np.bool_] = enough & (gained[0] > largest * spread) & (np.quantile(gained[1:], 0.05, axis=0) > 0)
    return shown


def _points(label: int) -> list[int]:
    """Return the points of a class's curve, by ascending fraction."""
    thinned = len(FRACTIONS) - 1
    return [*range(1 + label * thinned, 1 + (label + 1) * thinned), 0]


def _band(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the estimate, the first sample, with the 90 % interval of the other samples, ``(3, K)``."""
    return np.stack([samples[0], *np.quantile(samples[1:], (0.05, 0.95), axis=0)])


def draws_within(rows: int, classes: int) -> int:
    """Return the number of draws that the time allows: fewer for many rows and classes."""
    heads = 1 + classes * (len(FRACTIONS) - 1)
    work = _WORK if classes <= MOST_WHOLE else _COLUMN_WORK
    return int(np.clip(work / (rows * heads), _LEAST_DRAWS, _MOST_DRAWS))


def _draws(train: Rows, val: Rows, classes: int, penalty: float, random: Generator, title: str | None) -> list[Draw]:
    scaling = Scaling.of(train.embeddings)
    features, unseen = scaling(train.embeddings), scaling(val.embeddings)
    labels = torch.from_numpy(train.labels)
    draws = []
    folds = np.zeros(0, dtype=np.int64)
    count = draws_within(len(train), classes)
    for number in tracked(range(count), title, count):
        if number % FOLDS == 0:
            folds = stratified_folds(train.labels, train.keys, FOLDS, random)
        out = folds == number % FOLDS
        weights = torch.from_numpy(_thinned(train.labels, ~out, classes, random))
        predict = _fitted(features, labels, weights, penalty, classes)
        rows = np.flatnonzero(out)
        draws.append(Draw(rows, predict(features[rows]).numpy(), predict(unseen).numpy()))
    return draws


def _fitted(
    features: Tensor, labels: Tensor, weights: Tensor, penalty: float, classes: int
) -> Callable[[Tensor], Tensor]:
    """Fit the heads of all points, and return a function that predicts the classes ``(P, N)`` of features ``(N, H)``.

    The weights ``(P, N)`` are those of `_thinned`. Heads of subsampled rows start from the head of all rows.
    """
    penalties = torch.full((len(weights),), penalty)
    whole = fit_heads(features, labels, weights[:1], penalties[:1], classes)
    if classes <= MOST_WHOLE:
        rest = fit_heads(features, labels, weights[1:], penalties[1:], classes, start=whole[0])
        heads = torch.cat([whole, rest])
        return lambda unseen: logits(unseen, heads).argmax(dim=2)
    columns = torch.arange(classes).repeat_interleave(len(FRACTIONS) - 1)
    refitted = refit_columns(features, labels, weights[1:], penalty, whole[0], columns)
    return lambda unseen: torch.cat(
        [logits(unseen, whole).argmax(dim=2), predict_refitted(unseen, whole[0], columns, refitted)]
    )


def _thinned(
    labels: NDArray[np.int64], used: NDArray[np.bool_], classes: int, random: Generator
) -> NDArray[np.float32]:
    """Return the weights ``(P, N)`` of the rows at each point: 0 for rows that are held out or subsampled away."""
    points = [used]
    for label in range(classes):
        rows = random.permutation(np.flatnonzero(used & (labels == label)))
        for fraction in FRACTIONS[:-1]:
            kept = used.copy()
            kept[rows[max(1, round(fraction * len(rows))) :]] = False
            points.append(kept)
    return np.array(points, dtype=np.float32)
