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
    labels, val_labels = torch.from_numpy(train), torch.from_numpy(val)
    tested = []
    support = torch.zeros(classes, samples + 1)
    for number, draw in enumerate(draws):
        rows = torch.from_numpy(draw.rows)
        true = torch.cat([labels[rows], val_labels])
        weights = (torch.cat([of_train[:, rows], of_val], dim=1) * of_draw[:, number, None]).T.contiguous()
        support.index_add_(0, true, weights)
        tested.append((true, torch.from_numpy(np.concatenate([draw.held_out, draw.val], axis=1)), weights))
    # A row counts by its share of its class, so that classes count by their share of the validation rows.
    share = torch.from_numpy(balance(train, val, classes)).float()[:, None]
    unit = share / support.clamp(min=1e-12)
    tested = [(true, predicted, weights * unit[true]) for true, predicted, weights in tested]
    there = share * (support > 0)
    taken, right = _counted(tested, classes)
    found = [_f1(taken, right, there)]
    found += [_f1(*_changed(tested, point, taken, right), there) for point in range(1, len(draws[0].val))]
    return np.stack(found).transpose(2, 0, 1)


_Tested = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""True classes ``(R,)``, predicted ones at each point ``(P, R)``, and weights in each sample ``(R, B + 1)``."""


def _counted(tested: Sequence[_Tested], classes: int) -> tuple[Tensor, Tensor]:
    """Return the weight of the rows that point 0 takes for each class, and takes rightly, each ``(C, B + 1)``."""
    taken = torch.zeros(classes, tested[0][2].shape[1])
    right = torch.zeros_like(taken)
    for true, predicted, weights in tested:
        taken.index_add_(0, predicted[0], weights)
        hit = predicted[0] == true
        right.index_add_(0, true[hit], weights[hit])
    return taken, right


def _changed(tested: Sequence[_Tested], point: int, taken: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `_counted` would of another point, from the few rows that it takes for another class than point 0."""
    taken, right = taken.clone(), right.clone()
    for true, predicted, weights in tested:
        rows = (predicted[point] != predicted[0]).nonzero()[:, 0]
        moved = weights[rows]
        for classes, sign in ((predicted[0][rows], -1), (predicted[point][rows], 1)):
            taken.index_add_(0, classes, moved, alpha=sign)
            hit = classes == true[rows]
            right.index_add_(0, classes[hit], moved[hit], alpha=sign)
    return taken, right


def _f1(taken: Tensor, right: Tensor, there: Tensor) -> NDArray[np.float64]:
    """Return the F1 ``(C, B + 1)`` of each class: twice what is right, of what is taken for it and what is of it."""
    total = (taken + there).double()
    found: NDArray[np.float64] = (2 * right / total.clamp(min=1e-12)).clamp(0, 1).numpy()
    return found


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
