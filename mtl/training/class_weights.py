"""What makes up for rare classes in a loss: weights of the classes, and what is added to their logits.

All weights are scaled so that their mean over the training rows is 1. So the expected loss of a step stays as large as
without weights, and learning rates, clipping and the balance between the tasks keep their meaning.

A class without training rows gets the weight 1, and counts as one row where its frequency is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def balanced_weights(counts: NDArray[np.int64], power: float = 1.0) -> NDArray[np.float64]:
    r"""Return weights that fall with the number of rows of a class.

    .. math:: w_c \propto (n / (C n_c))^{power}

    With power 1 the rows of each class weigh the same together, as with scikit-learn's ``class_weight="balanced"``
    (King & Zeng 2001), whose values these are. Lower powers are milder; 0 gives no weights.

    Args:
        counts: ``n_c``, the training rows of each class, int64, ``(C,)``.
        power: From 0 to 1.
    """
    present = counts > 0
    raw = counts.sum() / (max(1, int(present.sum())) * np.maximum(counts, 1))
    return _scaled(raw**power, counts)


def effective_number_weights(counts: NDArray[np.int64], beta: float) -> NDArray[np.float64]:
    r"""Return weights by the effective number of samples of a class (Cui et al. 2019, equation 4).

    .. math:: w_c \propto (1 - \beta) / (1 - \beta^{n_c})

    A further row of a class is the less news the more there are: a class of many rows counts as ``1 / (1 - beta)``
    different ones at most. With beta 0 all weights are 1; towards 1 they become the balanced ones. The paper scales the
    weights to a sum of ``C``; the ratios of the classes are the same.

    Args:
        counts: ``n_c``, the training rows of each class, int64, ``(C,)``.
        beta: From 0 to below 1.
    """
    effective = -np.expm1(np.maximum(counts, 1) * np.log(beta)) if beta > 0 else np.ones(len(counts))
    return _scaled((1.0 - beta) / effective, counts)


def logit_offsets(counts: NDArray[np.int64], tau: float) -> NDArray[np.float64]:
    r"""Return what logit adjustment adds to the logits in the training loss (Menon et al. 2021, equation 10).

    .. math:: \tau \log \pi_c, \quad \pi_c = n_c / n

    The network learns to do without the frequencies, and its own logits, which predict, favour no class for being
    frequent. With tau 1 it is consistent with the balanced error, the mean of the classes' error rates.

    Args:
        counts: ``n_c``, the training rows of each class, int64, ``(C,)``.
        tau: From 0 (nothing is added) on.
    """
    offsets: NDArray[np.float64] = tau * np.log(np.maximum(counts, 1) / max(1, counts.sum()))
    return offsets


def _scaled(raw: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the weights with a mean of 1 over the rows, and 1 for classes that have none."""
    total = float((raw * counts).sum())
    return np.where(counts > 0, raw * (counts.sum() / total), 1.0) if total else np.ones(len(counts))
