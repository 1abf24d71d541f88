"""Metrics of resampled test rows, computed from counts, for the paired bootstrap.

Rows are drawn with replacement (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13), as many as
there are. All runs over the same rows see the same draws, so the differences between two runs are paired (Koehn,
Statistical Significance Tests for Machine Translation Evaluation, EMNLP 2004). The weight of a row is how often it was
drawn; correct, predicted and true rows of each class are then products of weights and indicators.

Notation: ``N`` rows, ``C`` classes, ``R`` resamples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from mtl.evaluation.counts import f1_scores

Classes = NDArray[np.int64]
Floats = NDArray[np.float64]
MEASURES = ("accuracy", "macro_f1", "rare_f1")
_CELLS = 1 << 24
"""Most weights at once: 64 MiB in single precision, which holds whole numbers up to 2 ** 24 exactly."""


def weights(rows: int, resamples: int, seed: Sequence[int]) -> Iterator[NDArray[np.float32]]:
    """Yield how often each row is drawn in each resample, ``(r, N)`` at a time, ``R`` in all."""
    generator = np.random.default_rng(list(seed))
    left, most = resamples, max(1, _CELLS // max(rows, 1))
    while left:
        count = min(left, most)
        drawn = generator.integers(0, rows, size=(count, rows)) + rows * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float32)
        left -= count


def resampled(
    labels: Classes,
    predictions: Sequence[Classes],
    classes: int,
    rare: Sequence[int],
    resamples: int,
    seed: Sequence[int],
) -> list[dict[str, Floats]]:
    """Return `MEASURES` of each run as observed, then on every resample, ``(1 + R,)``; all runs see the same draws.

    True classes and those that each run predicted are ``(N,)`` from 0. ``rare`` are the classes that ``rare_f1``
    averages; without any it is left out.
    """
    observed = np.ones((1, len(labels)), np.float32)
    drawn = chain([observed], weights(len(labels), resamples, seed))
    parts = zip(*(_measured(labels, predictions, classes, rare, chunk) for chunk in drawn), strict=True)
    return [{name: np.concatenate([part[name] for part in run]) for name in run[0]} for run in parts]


def _measured(
    labels: Classes, predictions: Sequence[Classes], classes: int, rare: Sequence[int], drawn: NDArray[np.float32]
) -> list[dict[str, Floats]]:
    support = _counts(drawn, labels, classes)
    measured = []
    for predicted in predictions:
        hits = _counts(drawn, np.where(labels == predicted, labels, -1), classes)
        f1 = f1_scores(hits, support + _counts(drawn, predicted, classes))
        values = {"accuracy": hits.sum(axis=1) / support.sum(axis=1), "macro_f1": f1.mean(axis=1)}
        if len(rare):
            values["rare_f1"] = f1[:, list(rare)].mean(axis=1)
        measured.append(values)
    return measured


def _counts(drawn: NDArray[np.float32], classes: Classes, count: int) -> Floats:
    """Return the number of drawn rows of each class, ``(r, C)``; rows with the class -1 are not counted."""
    indicator = (classes[:, None] == np.arange(count)).astype(np.float32)
    counts: Floats = (drawn @ indicator).astype(np.float64)
    return counts


@dataclass(frozen=True, slots=True)
class SeedNoise:
    """The noise that the choice of the seeds adds to a difference between two scenarios."""

    error: float  # the standard error of the difference over seeds
    freedom: float  # the degrees of freedom of that estimate, which is uncertain with few seeds


@dataclass(frozen=True, slots=True)
class SeedVariance:
    """The variance of a measure over seeds, and the degrees of freedom of that estimate."""

    variance: float
    freedom: float


def pooled_variance(scenarios: Iterable[Floats]) -> SeedVariance | None:
    """Return the mean variance of a measure ``(n,)`` of each scenario; None where none has more than one seed."""
    several = [runs for runs in scenarios if len(runs) > 1]
    freedom = float(sum(len(runs) - 1 for runs in several))
    if not several:
        return None
    squares = sum(float(np.square(runs - runs.mean()).sum()) for runs in several)
    return SeedVariance(squares / freedom, freedom)


def seed_noise(first: Floats, second: Floats, pooled: SeedVariance | None) -> SeedNoise | None:
    """Estimate the seed noise in the difference of the means of two scenarios; None where no scenario has two seeds.

    The arguments are a measure of each run, ``(n,)`` and ``(m,)``, and its variance over all scenarios. Scenarios vary
    differently over their seeds, and two or three seeds often agree by chance. So a scenario's variance is its own, but
    no less than the mean of all, which also replaces that of a scenario with a single seed. Of the two, the lower
    degrees of freedom count. Under the null hypothesis at most one pair in twenty is called different at p < 0.05, even
    where scenarios vary very differently.
    """
    one, other = _at_least(first, pooled), _at_least(second, pooled)
    if one is None or other is None:
        return None
    total = one.variance / len(first) + other.variance / len(second)
    return SeedNoise(float(np.sqrt(total)), min(one.freedom, other.freedom))


def paired_seed_noise(differences: Floats) -> SeedNoise | None:
    """Estimate the seed noise in the mean of differences ``(n,)``, one of each seed; None with one seed."""
    if len(differences) == 1:
        return None
    return SeedNoise(float(np.std(differences, ddof=1) / np.sqrt(len(differences))), len(differences) - 1.0)


def _at_least(runs: Floats, pooled: SeedVariance | None) -> SeedVariance | None:
    own = pooled_variance([runs])
    if own is None or (pooled is not None and pooled.variance > own.variance):
        return pooled
    return own


def with_seed_noise(differences: Floats, noise: SeedNoise, seed: int) -> Floats:
    """Add seed noise to differences on resampled rows, ``(R,)``, and return ``(2R,)`` values.

    The noise follows Student's t. Resampling the few seeds instead would make their variance too small by a factor of
    ``(n - 1) / n`` and ignore that it is an estimate. Each draw is added and subtracted, so that the result does not
    depend on the order of the scenarios.
    """
    drawn = noise.error * np.random.default_rng(seed).standard_t(noise.freedom, size=len(differences))
    return np.concatenate([differences + drawn, differences - drawn])


def p_value(differences: Floats) -> float:
    """Return the two-sided p-value of no difference, from the share of resamples ``(R,)`` on either side of 0.

    The observed data count as one more resample, so that no p-value is 0 (Davison and Hinkley, Bootstrap Methods and
    their Application, 1997, section 4.2). It is 1 where no resample differs.
    """
    sides = (np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    return float(min(1.0, 2 * (min(sides) + 1) / (len(differences) + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of a family of tests: Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979."""
    adjusted = [1.0] * len(p_values)
    greatest = 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda at: p_values[at])):
        greatest = max(greatest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = greatest
    return adjusted
