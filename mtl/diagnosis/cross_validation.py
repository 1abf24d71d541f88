"""Out-of-sample predictions of the training rows: cross-validated logistic regressions on several views of them.

Folds are stratified by class, and rows with the same text are in the same fold. A view is an inner layer of the encoder
joined with the logits of other tasks' heads: these have seen no label of this task, so its wrong labels have not
influenced them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from mtl.activations.encoding import tracked
from mtl.diagnosis.logistic_regression import Scaling, fit_heads, logits


def stratified_folds(
    labels: NDArray[np.int64], keys: NDArray[np.uint64], folds: int, random: Generator
) -> NDArray[np.int64]:
    """Return the fold of each row, int64 ``(N,)``.

    A repeated text would leak its label into the held-out fold, so rows with the same key (see `Rows`) are in the same
    fold. Where texts do not repeat, the folds of a class differ by one row at most.
    """
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    strata = labels[first]
    of_group = np.empty(len(first), dtype=np.int64)
    for stratum in np.unique(strata):
        members = random.permutation(np.flatnonzero(strata == stratum))
        of_group[members] = (np.arange(len(members)) + random.integers(folds)) % folds
    return of_group[group]


PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03)
"""The grid, strongest first, for `mtl.diagnosis.logistic_regression.fit_heads`: scikit-learn's ``C`` from 0.3 to 33."""
FOLDS = 5
SEARCHED_ROWS = 1500
"""Held-out rows that choose a penalty and the views: enough to tell two cross-entropies apart; with many classes a fit
on many rows takes seconds."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a task on which heads can be fitted."""

    embeddings: NDArray[np.float32]  # ``(N, H)`` float32
    labels: NDArray[np.int64]  # class ids ``(N,)``, int64
    # A number for each text ``(N,)``, uint64, equal for texts that differ only in case and white space
    keys: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class OutOfSample:
    """Predictions of the training rows by heads that have not seen them."""

    probabilities: NDArray[np.float64]  # ``(N, C)`` float64, the mean over the better views and repetitions
    penalties: tuple[float, ...]  # for each view the penalty with the lowest cross-entropy on held-out rows


def out_of_sample(
    rows: Rows,
    classes: int,
    random: Generator,
    views: Sequence[NDArray[np.float32]] = (),
    repeats: int = 2,
    title: str | None = None,
) -> OutOfSample:
    """Return cross-validated probabilities of the training rows.

    Each view has its own heads. The better half of the views, by the cross-entropy on held-out rows, is averaged: a
    wrong label has to look wrong in all of them. Penalties and views are chosen by the first round of folds, by as many
    of them as hold `SEARCHED_ROWS`; further rounds with other folds, up to ``repeats``, contribute to the mean.

    The first view are the embeddings of the rows; other ``views`` are each ``(N, any size)``. The title is that of
    `mtl.activations.encoding.tracked`.
    """
    rounds = [stratified_folds(rows.labels, rows.keys, FOLDS, random) for _ in range(repeats)]
    labels = torch.from_numpy(rows.labels)
    all_views = [_View(Scaling.of(view)(view), labels, classes) for view in (rows.embeddings, *views)]
    searches = [_search(view, rounds[0]) for view in tracked(all_views, title, len(all_views))]
    better = sorted(range(len(searches)), key=lambda view: searches[view].loss)[: max(1, len(searches) // 2)]
    wanted = [(view, number) for view in better for number in range(repeats)]
    mean = np.zeros((len(rows), classes))
    for view, number in tracked(wanted, title, len(wanted)):
        done = _searched(len(rows)) if number == 0 else 0
        held_out = searches[view].probabilities if number == 0 else np.zeros_like(mean)
        all_views[view].predict(rounds[number], range(done, FOLDS), searches[view].penalty, held_out)
        mean += held_out / len(wanted)
    return OutOfSample(mean, tuple(search.penalty for search in searches))


@dataclass(frozen=True, slots=True)
class _View:
    """One view of the rows: features ``(N, H)``, labels ``(N,)``, and the number of classes."""

    features: Tensor
    labels: Tensor
    classes: int

    def predict(
        self,
        folds: NDArray[np.int64],
        which: range,
        penalty: float,
        into: NDArray[np.float64],
        start: Tensor | None = None,
    ) -> Tensor:
        """Predict the rows of some folds, each by a head that was fitted on all other folds, and return these heads.

        ``folds`` is the fold of each row ``(N,)``. The probabilities are written to their rows of ``into``, ``(N, C)``.
        """
        if not which:
            return torch.empty(0)
        weights = torch.from_numpy(np.array([folds != fold for fold in which], dtype=np.float32))
        penalties = torch.full((len(which),), penalty)
        heads = fit_heads(self.features, self.labels, weights, penalties, self.classes, start)
        for fold, head in zip(which, heads, strict=True):
            rows = folds == fold
            probabilities = logits(self.features[torch.from_numpy(rows)], head[None])[0].softmax(dim=-1)
            into[rows] = probabilities.double().numpy()
        return heads


@dataclass(frozen=True, slots=True)
class _Search:
    """Held-out probabilities ``(N, C)`` at the best penalty, filled in the searched folds, and their cross-entropy."""

    probabilities: NDArray[np.float64]
    penalty: float
    loss: float


def _searched(rows: int) -> int:
    """Return the number of folds that hold `SEARCHED_ROWS` rows, at least one."""
    return min(FOLDS, math.ceil(SEARCHED_ROWS * FOLDS / rows))


def _search(view: _View, folds: NDArray[np.int64]) -> _Search:
    """Weaken the penalty, starting from the heads of the stronger one, until held-out rows are predicted worse."""
    which = range(_searched(len(folds)))
    held_out = np.isin(folds, which)
    labels = view.labels.numpy()[held_out]
    best: _Search | None = None
    heads: Tensor | None = None
    for penalty in PENALTIES:
        probabilities = np.zeros((len(folds), view.classes))
        heads = view.predict(folds, which, penalty, probabilities, heads)
        of_labels = probabilities[held_out][np.arange(len(labels)), labels]
        loss = float(-np.log(np.maximum(of_labels, 1e-12)).mean())
        if best is not None and loss > best.loss:
            break
        best = _Search(probabilities, penalty, loss)
    assert best is not None  # noqa: S101 - narrows for mypy: there are penalties
    return best


PENALTY = 1.0
"""The penalty of the other tasks' heads."""
WEIGHT = 1.0
"""The root mean square length of another task's logits in a view; that of the embedding is 1."""


def joined_views(
    embeddings: Mapping[str, NDArray[np.float32]], labels: Mapping[str, NDArray[np.int64]]
) -> dict[str, NDArray[np.float32]]:
    """Return for each task its scaled embeddings joined with the logits of the other tasks' heads for its rows.

    From the embeddings of each task's training rows ``(N, H)``, of one layer, and their class ids ``(N,)``, it makes
    ``(N, H + C of the other tasks)``.
    """
    heads = {task: _head(embeddings[task], ids) for task, ids in labels.items()}
    views = {}
    for task, rows in embeddings.items():
        parts = [Scaling.of(rows)(rows).numpy()]
        parts += [_scaled_logits(rows, *head) for other, head in heads.items() if other != task]
        views[task] = np.concatenate(parts, axis=1)
    return views


def _head(rows: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[Scaling, Tensor]:
    scaling = Scaling.of(rows)
    weights, penalty = torch.ones(1, len(rows)), torch.tensor([PENALTY])
    return scaling, fit_heads(scaling(rows), torch.from_numpy(labels), weights, penalty, int(labels.max()) + 1)


def _scaled_logits(rows: NDArray[np.float32], scaling: Scaling, head: Tensor) -> NDArray[np.float32]:
    """Return the logits ``(N, C)`` of a head with mean 0 and a root mean square length of `WEIGHT`."""
    values = logits(scaling(rows), head)[0]
    values = values - values.mean(dim=1, keepdim=True)
    values = values - values.mean(dim=0)
    length = values.square().sum(dim=1).mean().sqrt().clamp(min=1e-12)
    scaled: NDArray[np.float32] = (WEIGHT * values / length).numpy()
    return scaled
