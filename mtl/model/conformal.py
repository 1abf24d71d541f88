"""When not to answer: sets of labels that hold the true one, and a confidence below which no answer is given.

Both come from the outcomes of a calibrated head on validation rows, and hold as far as later texts are like these rows.
Choosing the best epoch, the temperature and the decision rule on the same rows makes them a little optimistic.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from mtl.base import schema

MOST_ROWS: Final = 5000
"""With more validation rows as many are drawn: thresholds are then exact to a hundredth, and a model stays small."""
CERTAINTY: Final = 0.95
"""The probability, over validation sets, that the answers given keep the risk."""

Probability = Annotated[float, Field(ge=0, le=1)]


@dataclass(config=schema.STRICT)
class Outcomes:
    """The probabilities that a calibrated head gave on validation rows."""

    # For each label, in the order of the logits, its probability in each row that has it, ascending
    true: Sequence[Sequence[Probability]]
    # The probability of the predicted label in each row where it is the true one, ascending
    right: Sequence[Probability]
    wrong: Sequence[Probability]  # the same for the rows where it is not

    def set_thresholds(self, coverage: float) -> NDArray[np.float64]:
        """Return the least probability with which each label belongs to a prediction set, ``(C,)``.

        Split-conformal prediction class by class (Vovk 2012, "Conditional validity of inductive conformal predictors";
        Sadinle, Lei and Wasserman 2019, "Least ambiguous set-valued classifiers with bounded error levels"): of the
        texts of each label the set holds it in a share of at least ``coverage``, on average over validation sets.

        Labels with fewer than ``coverage / (1 - coverage)`` validation rows share one threshold from the rows of all of
        them, and the share holds for their texts together (the null cluster of Ding et al. 2023, "Class-conditional
        conformal prediction with many classes"). They belong to every set if these rows are too few as well.
        """
        least = [_least(probabilities, coverage) for probabilities in self.true]
        rare = [probabilities for probabilities, value in zip(self.true, least, strict=True) if value is None]
        shared = _least(sorted(chain.from_iterable(rare)), coverage) or 0.0
        return np.array([shared if value is None else value for value in least])

    def answer_threshold(self, risk: float) -> float:
        """Return the least confidence, the probability of the predicted label, with which an answer is given.

        Among the texts answered the share of wrong labels is then at most ``risk`` with probability `CERTAINTY`
        (Geifman and El-Yaniv 2017, "Selective classification for deep neural networks", algorithm 1). The threshold is
        infinity, so that nothing is answered, if these rows support none.
        """
        right, wrong = np.asarray(self.right, dtype=np.float64), np.asarray(self.wrong, dtype=np.float64)
        confidences = np.sort(np.concatenate((right, wrong)))
        low, high, threshold = 0, len(confidences), np.inf
        uncertainty = (1 - CERTAINTY) / max(1, len(confidences).bit_length())  # shared by the thresholds tried
        while low < high:
            middle = (low + high) // 2
            lowest = confidences[middle]
            answered = len(confidences) - np.searchsorted(confidences, lowest)
            errors = len(wrong) - np.searchsorted(wrong, lowest)
            if at_most(int(errors), int(answered), risk) <= uncertainty:
                threshold, high = lowest, middle
            else:
                low = middle + 1
        return float(threshold)


def outcomes(probabilities: NDArray[np.floating], predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> Outcomes:
    """Return the outcomes of validation rows, rounded down to six digits.

    They come from calibrated probabilities, ``(N, C)``, the predicted and the true classes, each ``(N,)``.
    """
    if len(labels) > MOST_ROWS:
        drawn = np.random.default_rng(0).choice(np.arange(len(labels)), MOST_ROWS, replace=False)
        probabilities, predicted, labels = probabilities[drawn], predicted[drawn], labels[drawn]
    rounded = np.floor(np.clip(probabilities, 0, 1) * 1e6) / 1e6
    rows = np.arange(len(labels))
    true, confidence, right = rounded[rows, labels], rounded[rows, predicted], predicted == labels
    return Outcomes(
        [np.sort(true[labels == label]).tolist() for label in range(probabilities.shape[1])],
        np.sort(confidence[right]).tolist(),
        np.sort(confidence[~right]).tolist(),
    )


def _least(ascending: Sequence[float], coverage: float) -> float | None:
    """Return the ``k``-th greatest value with ``k = ceil((n + 1) coverage)``; None if there are fewer."""
    rank = max(1, int(np.ceil((len(ascending) + 1) * coverage - 1e-9)))
    return None if rank > len(ascending) else ascending[len(ascending) - rank]


def at_most(errors: int, rows: int, rate: float) -> float:
    """Return the probability that at most ``errors`` of ``rows`` answers are wrong at an error rate of ``rate``.

    It is at most ``u`` exactly where the upper end of the one-sided Clopper-Pearson interval of the error rate, at the
    level ``1 - u``, is at most ``rate``.
    """
    if errors >= rows:
        return 1.0
    counts = np.arange(1, errors + 1)
    log_choices = np.concatenate(([0.0], np.cumsum(np.log((rows - counts + 1) / counts))))
    wrong = np.arange(errors + 1)
    return float(np.exp(log_choices + wrong * np.log(rate) + (rows - wrong) * np.log1p(-rate)).sum())
