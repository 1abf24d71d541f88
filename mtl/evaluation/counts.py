"""Counts of true and predicted classes, and F1 from them: one definition for arrays and tensors, without torch.

Notation: ``N`` rows, ``C`` classes. Conventions as in scikit-learn with ``labels=range(C), zero_division=0``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Counts = TypeVar("Counts", NDArray[Any], "Tensor")
Integers = NDArray[np.integer]


class ClassCounts(NamedTuple):
    """Rows of each class, each of shape ``(C,)``: correctly predicted ones, true ones and predicted ones."""

    right: Integers
    support: Integers
    predicted: Integers


def class_counts(labels: Integers, predicted: Integers, classes: int) -> ClassCounts:
    """Count the rows of each of ``C`` classes from true and predicted classes ``(N,)``."""
    parts = (labels[labels == predicted], labels, predicted)
    return ClassCounts(*(np.bincount(part, minlength=classes) for part in parts))


def confusion_matrix(labels: Integers, predicted: Integers, classes: int) -> NDArray[np.int64]:
    """Count the rows ``(N,)`` by true class (row) and predicted class (column), ``(C, C)``."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def f1_scores(right: Counts, total: Counts) -> Counts:
    """Return F1, the harmonic mean of precision and recall, as ``2 TP / (support + predicted)``; 0 without rows.

    Args:
        right: Correctly predicted rows of each class, of any shape ``(..., C)``; may be sums of weights.
        total: Its true rows plus the rows predicted as it, of the same shape.
    """
    scores: Counts = 2 * right / total.clip(min=1e-12)
    return scores


def macro_f1(labels: Integers, predicted: Integers, classes: int) -> float:
    """Return the mean F1 of all ``C`` classes from true and predicted classes ``(N,)``."""
    counts = class_counts(labels, predicted, classes)
    return float(f1_scores(counts.right, counts.support + counts.predicted).mean())
