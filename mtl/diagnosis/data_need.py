"""What more rows of each class would bring: learning curves in which one class is thinned and the others stay whole.

A draw holds out one fold of the training rows, thins the rest of one class, fits a head, and looks at the rows it has
not seen: those of the fold and the validation rows. Both kinds are out of sample; together they tell a rare class's
recall from twice as many rows as the validation split alone. They count by class, so that the figures are those of the
validation split's class balance whatever the balance of training.

Notation: ``C`` classes, ``K`` fractions of a class (the last is 1), ``T`` draws, ``B`` bootstrap samples; a point is a
class with a fraction below 1, or the whole, which is point 0: ``P = 1 + C * (K - 1)`` points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mtl.activations.encoding import tracked
from mtl.diagnosis.bootstrap import Draw, bootstrapped_f1
from mtl.diagnosis.cross_validation import FOLDS, Rows
from mtl.diagnosis.curves import gains
from mtl.diagnosis.folds import stratified_folds
from mtl.diagnosis.heads import Scaling, fit_heads, logits, predict_refitted, refit_columns

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray
    from torch import Tensor

FRACTIONS = (0.4, 0.65, 1.0)
"""Of a class's rows. Below 0.4 a curve says little of what comes after its end; nearer to 1 the points are too close
together to tell a slope from noise."""
LEAST_ROWS = 10
"""Training rows that a class needs before its curve says anything."""
MOST_WHOLE = 12
"""With more classes the thinned class's column alone is fitted again: whole heads take time with the square of the
classes. On 77 overlapping classes the changes of macro-F1 correlated with those of whole heads by 0.95, with a slope of
0.90: gains come out a tenth too small, in nearly the same order."""
_WORK = 1e6
"""Rows times heads that are fitted: about a minute on two CPU cores at 384 dimensions and 12 classes."""
_COLUMN_WORK = 1e7
"""Rows times columns that are fitted, where these are no whole heads."""
_MOST_DRAWS = 20
_LEAST_DRAWS = 4


@dataclass(frozen=True, slots=True)
class ClassNeed:
    """What more rows of a class would bring.

    Attributes:
        label: The class.
        rows: Its training rows.
        tested: Its rows that heads were tested on: training rows held out in turn, and validation rows.
        gain: What ``more`` rows would add to macro-F1.
        low: The lower end of the 90 % interval of ``gain``.
        high: The upper end.
        supported: Whether the gain is above what chance gives the luckiest of all classes, see `_supported`.
        best: In which share of the bootstrap samples this class gains more than every other.
        own_gain: What they would add to the class's own F1.
        curve_rows: Numbers of its rows ``(K,)``.
        curve: Its own F1 at each, with low and high end of the 90 % interval ``(3, K)``.
        macro: Macro-F1 at each, the same way ``(3, K)``.
    """

    label: str
    rows: int
    tested: int
    gain: float
    low: float
    high: float
    supported: bool
    best: float
    own_gain: float
    curve_rows: NDArray[np.float64]
    curve: NDArray[np.float64]
    macro: NDArray[np.float64]

    @property
    def enough(self) -> bool:
        """Whether there are rows enough for the figures to mean anything."""
        return self.rows >= LEAST_ROWS


def data_need(
    train: Rows,
    val: Rows,
    labels: tuple[str, ...],
    penalty: float,
    more: int,
    random: Generator,
    title: str | None = None,
) -> list[ClassNeed]:
    """Estimate for each class what ``more`` rows of it would bring.

    Args:
        train: The training rows.
        val: The validation rows; there may be none.
        labels: The ``C`` class names.
        penalty: That of the heads, see `mtl.diagnosis.heads.fit_heads`.
        more: How many rows.
        random: Decides draws and bootstrap samples.
        title: What the progress is called, see `mtl.activations.encoding.tracked`.

    Returns:
        The classes, the largest gain first.
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
    supported = _supported(gained, counts >= LEAST_ROWS)
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
    """Tell for which classes the evidence shows a gain, ``(C,)``, at a rate of 5 % for a single wrong one among all.

    Of 77 classes without any gain four would have a 90 % interval above 0. So a class's gain, in units of its standard
    error, has to be above the 95 % quantile of the largest error among all classes in the bootstrap samples (the
    single-step max-T procedure: Westfall & Young 1993, "Resampling-Based Multiple Testing"), beside its own interval.

    Args:
        gained: The gain of each class, from all rows and then from each sample, ``(B + 1, C)``.
        enough: Which classes have rows enough ``(C,)``; the others are no candidates.
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
    """Return the estimate, which comes first, with the 90 % interval of the samples after it, ``(3, K)``."""
    return np.stack([samples[0], *np.quantile(samples[1:], (0.05, 0.95), axis=0)])


def draws_within(rows: int, classes: int) -> int:
    """Return how many draws there is time for: fewer for many rows and classes."""
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
    """Fit the heads of all points, and return what gives the classes ``(P, N)`` that they tell of features ``(N, H)``.

    The weights ``(P, N)`` are those of `_thinned`. The thinned heads start from the whole one.
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
    """Return the weights ``(P, N)`` of the rows at each point: 0 for what is held out or thinned away."""
    points = [used]
    for label in range(classes):
        rows = random.permutation(np.flatnonzero(used & (labels == label)))
        for fraction in FRACTIONS[:-1]:
            kept = used.copy()
            kept[rows[max(1, round(fraction * len(rows))) :]] = False
            points.append(kept)
    return np.array(points, dtype=np.float32)
