"""From logits to an answer: a bias for rare classes, and a temperature for trustworthy probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = 0.01, 100.0
"""The range of a temperature: wide, since a young head on normalised embeddings has small logits and needs 0.02, while
logits that are noise would have it run to infinity."""

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What stands between a head's logits and the probabilities that are given out: ``softmax((z + bias) / T)``.

    The predicted class is the greatest of ``z + bias``, so the temperature never changes it.
    """

    temperature: float = 1.0  # ``T``
    bias: tuple[float, ...] | None = None  # what is added to the logits, one number for each class; ``None``: nothing
    tau: float = 0.0  # how much of the log-prior the bias takes out; for the report

    def adjusted(self, logits: Floats) -> NDArray[np.float64]:
        """Return ``z + bias``, float64 ``(N, C)``; their greatest is the predicted class."""
        values = logits.astype(np.float64)
        return values if self.bias is None else values + np.asarray(self.bias)

    def predicted(self, logits: Floats) -> NDArray[np.int64]:
        """Return the class of each row, ``(N,)``; the first of several that are equal.

        It is not read off the probabilities: rounded, two of them may be equal where the logits are not.
        """
        classes: NDArray[np.int64] = self.adjusted(logits).argmax(axis=1)
        return classes

    def probabilities(self, logits: Floats) -> NDArray[np.float64]:
        """Return ``softmax((z + bias) / T)``, float64 ``(N, C)``."""
        probabilities: NDArray[np.float64] = np.exp(log_softmax(self.adjusted(logits) / self.temperature))
        return probabilities


def log_softmax(logits: Floats) -> NDArray[np.float64]:
    """Return log-probabilities, float64 ``(N, C)``, finite for finite logits of any size."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True, initial=-np.inf)
    log_probabilities: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_probabilities
