"""Counts of true and predicted classes, and F1 from them: one definition for arrays and tensors, without torch.

Notation: ``N`` rows, ``C`` classes. Conventions as in scikit-learn with ``labels=range(C), zero_division=0``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Counts = TypeVar("Counts", NDArray[Any], "Tensor")
Integers = NDArray[np.integer]


def confusion_matrix(labels: Integers, predicted: Integers, classes: int) -> NDArray[np.int64]:
    """Count the rows ``(N,)`` by true class (row) and predicted class (column), ``(C, C)``."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def f1_scores(right: Counts, total: Counts) -> Counts:
    """Return F1, the harmonic mean of precision and recall, as ``2 TP / (support + predicted)``; 0 without rows.

    ``right`` are the correctly predicted rows of each class ``(..., C)``, ``total`` its true rows plus those that were
    predicted as it; both may be sums of weights.
    """
    scores: Counts = 2 * right / total.clip(min=1e-12)
    return scores


def class_f1(labels: Integers, predicted: Integers, classes: int) -> NDArray[np.float64]:
    """Return the F1 ``(C,)`` of each class from true and predicted classes ``(N,)``."""
    right, support, answered = (
        np.bincount(ids, minlength=classes) for ids in (labels[labels == predicted], labels, predicted)
    )
    return f1_scores(right, support + answered)


def macro_f1(labels: Integers, predicted: Integers, classes: int) -> float:
    """Return the mean F1 of all ``C`` classes from true and predicted classes ``(N,)``."""
    return float(class_f1(labels, predicted, classes).mean())
