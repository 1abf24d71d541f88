"""F1 of each class on rows that heads have not seen, with bootstrap samples of the draws and of the rows.

Notation: ``C`` classes, ``P`` points of the learning curves, ``T`` draws, ``B`` bootstrap samples, ``N`` training rows,
of which a draw holds out ``M``, and ``V`` validation rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mtl.diagnosis.cross_validation import FOLDS

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray
    from torch import Tensor

SAMPLES = 400


@dataclass(frozen=True, slots=True)
class Draw:
    """What the heads of one draw say of the rows that they have not seen.

    Attributes:
        rows: The training rows that were held out, ``(M,)``.
        held_out: The classes that the heads of each point give them, ``(P, M)``.
        val: The classes that they give the validation rows, ``(P, V)``.
    """

    rows: NDArray[np.int64]
    held_out: NDArray[np.int64]
    val: NDArray[np.int64]


def bootstrapped_f1(
    draws: Sequence[Draw],
    train: NDArray[np.int64],
    val: NDArray[np.int64],
    classes: int,
    random: Generator,
    samples: int = SAMPLES,
) -> NDArray[np.float64]:
    """Return the F1 of every class at every point, from all rows, then from each bootstrap sample.

    A sample draws draws, and rows within each class, with replacement (Efron 1979), the same for all points, so that
    differences between points keep what the points have in common. Training and validation rows give the rates at which
    a class is taken for each other one; F1 is that of these rates at the validation rows' class balance.

    Args:
        draws: ``T`` draws.
        train: Class ids of the training rows ``(N,)``.
        val: Class ids of the validation rows ``(V,)``; there may be none.
        classes: ``C``.
        random: Decides the samples.
        samples: ``B``.

    Returns:
        ``(B + 1, P, C)``, of all rows first.
    """
    of_train, of_val = _resampled(train, samples, random), _resampled(val, samples, random) / FOLDS
    of_draw = _resampled(np.zeros(len(draws), dtype=np.int64), samples, random)  # (B + 1, T)
    points = len(draws[0].val)
    counts = torch.zeros(points, samples + 1, classes * classes)
    labels = torch.from_numpy(train), torch.from_numpy(val)
    for number, draw in enumerate(draws):
        rows = torch.from_numpy(draw.rows)
        true = torch.cat([labels[0][rows], labels[1]])
        weights = torch.cat([of_train[:, rows], of_val], dim=1) * of_draw[:, number, None]
        predicted = torch.from_numpy(np.concatenate([draw.held_out, draw.val], axis=1))
        for point in range(points):
            counts[point].index_add_(1, true * classes + predicted[point], weights)
    confusions = counts.view(points, samples + 1, classes, classes).double().numpy().swapaxes(0, 1)
    rates = confusions / np.maximum(confusions.sum(axis=3, keepdims=True), 1e-12)
    return f1_scores(rates * balance(train, val, classes)[:, None])


def balance(train: NDArray[np.int64], val: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Return each class's share of the validation rows; of all rows where a class has no validation row."""
    counts = np.bincount(val, minlength=classes)
    if not counts.all():
        counts = counts + np.bincount(train, minlength=classes)
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def f1_scores(confusions: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the F1 ``(…, C)`` of each class from confusion matrices ``(…, C, C)``; 0 where a class has no count."""
    right = np.einsum("...cc->...c", confusions)
    total = confusions.sum(axis=-1) + confusions.sum(axis=-2)
    found: NDArray[np.float64] = np.divide(2 * right, total, out=np.zeros_like(total), where=total > 0)
    return found


def _resampled(labels: NDArray[np.int64], samples: int, random: Generator) -> Tensor:
    """Return how often each row stands in all rows (once) and in each bootstrap sample, ``(B + 1, N)``."""
    weights = np.ones((samples + 1, len(labels)), dtype=np.float32)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        weights[1:, rows] = random.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=samples)
    return torch.from_numpy(weights)
