"""Out-of-sample predictions of the training rows: cross-validated logistic regressions on embeddings.

A head that has seen a row's label repeats it; what a head says of rows that it has not seen is evidence about them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mtl.diagnosis.folds import stratified_folds
from mtl.diagnosis.heads import Scaling, fit_heads, logits

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray
    from torch import Tensor

PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03)
"""Those that are tried, in the terms of `mtl.diagnosis.heads.fit_heads`: scikit-learn's ``C`` from 0.3 to 33."""
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a task on which heads can be fitted.

    Attributes:
        embeddings: ``(N, H)`` float32.
        labels: Class ids ``(N,)``, int64.
        keys: A number for each text ``(N,)``, uint64: the same for texts that differ only in case and white space.
    """

    embeddings: NDArray[np.float32]
    labels: NDArray[np.int64]
    keys: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class OutOfSample:
    """What heads that have not seen a training row say of it.

    Attributes:
        probabilities: ``(N, C)`` float64, the mean over the better views and repetitions.
        penalties: For each view the penalty with the lowest cross-entropy on rows that were held out.
    """

    probabilities: NDArray[np.float64]
    penalties: tuple[float, ...]


def out_of_sample(
    rows: Rows,
    classes: int,
    random: Generator,
    views: Sequence[NDArray[np.float32]] = (),
    repeats: int = 2,
    penalties: Sequence[float] = PENALTIES,
) -> OutOfSample:
    """Return cross-validated probabilities of the training rows.

    Each view has heads of its own. The better half of the views, by the cross-entropy on rows that were held out, are
    averaged: a wrong label has to look wrong to all of them. The penalty of a view and the views are chosen by the
    first round of folds; further rounds with other folds go into the mean.

    Args:
        rows: The training rows; their embeddings are the first view.
        classes: ``C``.
        random: Decides the folds.
        views: Other embeddings of the same rows, each ``(N, any size)``.
        repeats: Rounds of folds that are averaged.
        penalties: Those to choose from.
    """
    labels = torch.from_numpy(rows.labels)
    rounds = [stratified_folds(rows.labels, rows.keys, FOLDS, random) for _ in range(repeats)]
    features = [Scaling.of(view)(view) for view in (rows.embeddings, *views)]
    first = [_best(each, labels, rounds[0], penalties, classes) for each in features]
    better = sorted(range(len(first)), key=lambda view: first[view].loss)[: max(1, len(first) // 2)]
    found = [first[view].probabilities for view in better]
    for view in better:
        found += [_round(features[view], labels, folds, [first[view].penalty], classes)[0] for folds in rounds[1:]]
    return OutOfSample(np.mean(found, axis=0), tuple(each.penalty for each in first))


@dataclass(frozen=True, slots=True)
class _Best:
    """The held-out probabilities of a view at the penalty with the lowest cross-entropy ``loss`` there."""

    probabilities: NDArray[np.float64]
    penalty: float
    loss: float


def _best(
    features: Tensor, labels: Tensor, folds: NDArray[np.int64], penalties: Sequence[float], classes: int
) -> _Best:
    tried = _round(features, labels, folds, penalties, classes)
    losses = [_cross_entropy(each, labels.numpy()) for each in tried]
    best = int(np.argmin(losses))
    return _Best(tried[best], penalties[best], losses[best])


def _round(
    features: Tensor, labels: Tensor, folds: NDArray[np.int64], penalties: Sequence[float], classes: int
) -> NDArray[np.float64]:
    """Return the probabilities ``(P, N, C)`` of one round of folds for each of ``P`` penalties."""
    found = np.zeros((len(penalties), len(labels), classes))
    held_out = torch.from_numpy(folds == np.arange(FOLDS)[:, None])  # (FOLDS, N)
    weights = (~held_out).float().repeat(len(penalties), 1)
    heads = fit_heads(features, labels, weights, torch.tensor(penalties).repeat_interleave(FOLDS), classes)
    for at, parameters in enumerate(heads):
        penalty, fold = divmod(at, FOLDS)
        rows = held_out[fold]
        found[penalty, rows.numpy()] = logits(features[rows], parameters[None])[0].softmax(dim=-1).double().numpy()
    return found


def _cross_entropy(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())
