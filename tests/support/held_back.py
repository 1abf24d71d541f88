"""Whether a diagnosis names the right class: rows are held back, and those of each class are given back in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mtl.diagnosis.cross_validation import Rows, out_of_sample
from mtl.diagnosis.data_need import ClassNeed, data_need
from mtl.diagnosis.logistic_regression import Scaling, fit_heads, logits
from mtl.evaluation.counts import macro_f1

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class HeldBack:
    """The training rows in two parts.

    Attributes:
        kept: The rows that the diagnosis sees, half of each class.
        returned: For each class the rows of it that are given back, as many of each.
    """

    kept: NDArray[np.int64]
    returned: list[NDArray[np.int64]]

    @classmethod
    def of(cls, labels: NDArray[np.int64], random: Generator) -> HeldBack:
        """Hold back half of each class, and give back as many rows of each as the rarest has there."""
        by_class = [random.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
        behind = [rows[len(rows) // 2 :] for rows in by_class]
        least = min(map(len, behind))
        return cls(
            np.sort(np.concatenate([rows[: len(rows) // 2] for rows in by_class])), [rows[:least] for rows in behind]
        )

    def with_returned(self, label: int) -> NDArray[np.int64]:
        """Return the kept rows and those that are given back of a class."""
        return np.sort(np.concatenate([self.kept, self.returned[label]]))


def select(rows: Rows, chosen: NDArray[np.int64]) -> Rows:
    """Return some of the rows."""
    return Rows(rows.embeddings[chosen], rows.labels[chosen], rows.keys[chosen])


def diagnosed(
    train: Rows, val: Rows, labels: tuple[str, ...], held: HeldBack, seed: int
) -> tuple[dict[str, ClassNeed], float]:
    """Return what the diagnosis says of the kept rows, by class, and its penalty; it sees nothing else but ``val``."""
    random = np.random.default_rng(seed)
    kept = select(train, held.kept)
    penalty = out_of_sample(kept, len(labels), random, repeats=1).penalties[0]
    more = len(held.returned[0])
    return {need.label: need for need in data_need(kept, val, labels, penalty, more, random)}, penalty


def realised(train: Rows, test: Rows, held: HeldBack, penalty: float) -> NDArray[np.float64]:
    """Return what macro-F1 on ``test`` gains by the rows of each class that are given back, ``(C,)``."""
    classes = len(held.returned)
    weights = torch.zeros(classes + 1, len(train))
    weights[:, held.kept] = 1
    for label in range(classes):
        weights[label + 1, held.with_returned(label)] = 1
    scaling = Scaling.of(train.embeddings[held.kept])
    heads = fit_heads(
        scaling(train.embeddings),
        torch.from_numpy(train.labels),
        weights,
        torch.full((classes + 1,), penalty),
        classes,
    )
    predicted = logits(scaling(test.embeddings), heads).argmax(dim=2).numpy()
    macro = np.array([macro_f1(test.labels, row, classes) for row in predicted])
    gained: NDArray[np.float64] = macro[1:] - macro[0]
    return gained
