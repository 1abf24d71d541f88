"""Many logistic regressions on the same embeddings at once, each with row weights and a penalty of its own.

Notation: ``N`` rows with embeddings of size ``H``, ``C`` classes, ``D`` regressions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

Floats = "NDArray[np.floating]"
MOST_LOGITS = 2**24
"""Logits of all rows and regressions that are in memory at a time (64 MB in float32); more are fitted one after
another."""
_STEPS = 200
_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Scaling:
    """Embeddings moved to mean 0 and divided by one number, so that a penalty means the same for every encoder.

    Attributes:
        mean: ``(H,)``.
        norm: The root mean square of the centred embeddings' lengths.
    """

    mean: NDArray[np.float32]
    norm: float

    @classmethod
    def of(cls, embeddings: NDArray[np.float32]) -> Scaling:
        """Return the scaling after which ``embeddings`` ``(N, H)`` have mean 0 and length 1 in the root mean square."""
        mean = embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
        square = np.einsum("nh,nh->", embeddings, embeddings, dtype=np.float64) / len(embeddings) - mean @ mean
        return cls(mean, float(np.sqrt(max(square, 0.0))) or 1.0)

    def __call__(self, embeddings: NDArray[np.float32]) -> Tensor:
        """Return embeddings ``(N, H)`` scaled, float32."""
        return torch.from_numpy((embeddings - self.mean) / np.float32(self.norm))


def fit_heads(
    features: Tensor, labels: Tensor, weights: Tensor, penalties: Tensor, classes: int, start: Tensor | None = None
) -> Tensor:
    """Fit ``D`` multinomial logistic regressions by L-BFGS on all rows at once; the same input gives the same output.

    Each minimises ``sum_n weight_n * cross-entropy_n + penalty / 2 * |W|^2`` (the bias is free), as scikit-learn's
    ``LogisticRegression(C=1 / penalty)`` with sample weights does. The problems are convex and share nothing but the
    rows, so one optimizer steps all of them: the product of all rows with all matrices is one product.

    Args:
        features: ``(N, H)`` float32.
        labels: Class ids ``(N,)``, int64.
        weights: ``(D, N)`` float32, the weight of each row in each regression; 0 leaves it out.
        penalties: ``(D,)`` float32, above 0.
        classes: ``C``.
        start: Parameters to start from, ``(H + 1, C)`` for all or ``(D, H + 1, C)``; zeros by default.

    Returns:
        The parameters ``(D, H + 1, C)``, the bias in the last row.
    """
    size = max(1, MOST_LOGITS // (len(labels) * classes))
    begin = torch.zeros(features.shape[1] + 1, classes) if start is None else start
    begin = begin.expand(len(weights), -1, -1)
    parts = [slice(at, at + size) for at in range(0, len(weights), size)]
    return torch.cat([_fit(features, labels, weights[part], penalties[part], begin[part]) for part in parts])


def _fit(features: Tensor, labels: Tensor, weights: Tensor, penalties: Tensor, start: Tensor) -> Tensor:
    count, width, classes = start.shape
    used = weights.any(dim=0)
    if not used.all():
        features, labels, weights = features[used], labels[used], weights[:, used]
    parameters = start.permute(1, 0, 2).reshape(width, count * classes).clone().requires_grad_()
    share = (weights / weights.sum(dim=1, keepdim=True)).T.contiguous()  # (N, D)
    decay = (penalties / weights.sum(dim=1)).repeat_interleave(classes)  # (D * C,)
    targets = labels.view(-1, 1, 1).expand(-1, count, 1)
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=_STEPS,
        max_eval=2 * _STEPS,
        history_size=12,
        tolerance_grad=_TOLERANCE,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def loss() -> float:
        matrix, bias = parameters[:-1], parameters[-1]
        logs = torch.addmm(bias, features, matrix).view(-1, count, classes).log_softmax(dim=2)
        value = -(share * logs.gather(2, targets).squeeze(2)).sum() + (decay * matrix.square().sum(dim=0)).sum() / 2
        slopes = logs.exp_()
        slopes.scatter_add_(2, targets, torch.full_like(targets, -1, dtype=slopes.dtype))
        slopes = slopes.mul_(share.unsqueeze(2)).view(-1, count * classes)
        parameters.grad = torch.cat([features.T @ slopes + decay * matrix, slopes.sum(dim=0, keepdim=True)])
        return float(value)

    optimizer.step(loss)
    return parameters.detach().view(width, count, classes).permute(1, 0, 2)


def logits(features: Tensor, parameters: Tensor) -> Tensor:
    """Return the logits ``(D, N, C)`` that parameters ``(D, H + 1, C)`` give features ``(N, H)``."""
    return torch.baddbmm(parameters[:, -1:], features.expand(len(parameters), -1, -1), parameters[:, :-1])
