"""Fit many logistic regressions on the same embeddings at once, each with its own row weights and penalty.

Notation: ``N`` rows with embeddings of size ``H``, ``C`` classes, ``D`` regressions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MOST_LOGITS = 2**24
"""The most logits of all rows and regressions in memory at a time (64 MB in float32); more are fitted in turn."""
_STEPS = 200
_CURVATURE = 0.1


@dataclass(frozen=True, slots=True)
class Scaling:
    """Centers embeddings, rotates them to their principal axes and divides them by their root mean square length.

    The division makes a penalty comparable between encoders. The rotation changes no head and no distance; it lets
    `fit_heads` scale its steps along each axis.
    """

    mean: NDArray[np.float32]  # ``(H,)``
    axes: NDArray[np.float32]  # orthonormal columns ``(H, H)``
    norm: float  # the root mean square of the centred embeddings' lengths

    @classmethod
    def of(cls, embeddings: NDArray[np.float32]) -> Scaling:
        """Return the scaling after which ``embeddings`` ``(N, H)`` have mean 0 and length 1 in the root mean square."""
        mean = embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = embeddings - mean
        covariance = (centred.T @ centred).astype(np.float64) / len(embeddings)
        axes = np.linalg.eigh(covariance)[1].astype(np.float32)
        return cls(mean, axes, float(np.sqrt(max(np.trace(covariance), 0.0))) or 1.0)

    def __call__(self, embeddings: NDArray[np.float32]) -> Tensor:
        """Return embeddings ``(N, H)`` scaled, float32."""
        return torch.from_numpy((embeddings - self.mean) @ self.axes / np.float32(self.norm))


def fit_heads(
    features: Tensor, labels: Tensor, weights: Tensor, penalties: Tensor, classes: int, start: Tensor | None = None
) -> Tensor:
    """Fit ``D`` multinomial logistic regressions by L-BFGS on all rows at once; the same input gives the same output.

    Each minimizes ``sum_n weight_n * cross-entropy_n + penalty / 2 * |W|^2`` (the bias is not penalized), as
    scikit-learn's ``LogisticRegression(C=1 / penalty)`` with sample weights does. The problems are convex and
    independent, so one optimizer minimizes their sum, with a single product of all rows with all matrices.

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
    if not used.all():  # otherwise all features would be copied
        features, labels, weights = features[used], labels[used], weights[:, used]
    share = (weights / weights.sum(dim=1, keepdim=True)).T.contiguous()  # (N, D)
    decay = (penalties / weights.sum(dim=1)).repeat_interleave(classes)  # (D * C,)
    targets = labels.view(-1, 1, 1).expand(-1, count, 1)

    def loss(scores: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
        logs = scores.view(-1, count, classes).log_softmax(dim=2)
        value = -(share * logs.gather(2, targets).squeeze(2)).sum() + (decay * matrix.square().sum(dim=0)).sum() / 2
        slopes = logs.exp_()
        slopes.scatter_add_(2, targets, torch.full_like(targets, -1, dtype=slopes.dtype))
        return value, slopes.mul_(share.unsqueeze(2)).view(-1, count * classes)

    begin = start.permute(1, 0, 2).reshape(width, count * classes)
    return _minimized(features, decay, begin, loss).view(width, count, classes).permute(1, 0, 2)


def _minimized(
    features: Tensor, decay: Tensor, start: Tensor, loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> Tensor:
    """Return the parameters ``(H + 1, K)`` of ``K`` columns, the bias in the last row, that minimize a loss by L-BFGS.

    The features are ``(N, H)``, the penalty ``decay`` is ``(K,)``.

    ``loss`` takes the scores ``(N, K)`` and the matrix ``(H, K)``, and returns its value, penalty ``decay / 2 * |W|^2``
    included, and the derivative of the rest by the scores.

    The second derivative of a class's cross-entropy along a feature is the mean of ``p (1 - p) x^2``, plus that of the
    penalty. With the first estimated as ``_CURVATURE * x^2``, parameters get a unit in which the loss is about equally
    curved along all of them, and L-BFGS needs a few dozen steps instead of hundreds.
    """
    curvature = _CURVATURE * features.square().mean(dim=0)[:, None] + decay
    scale = torch.cat([curvature, torch.full((1, len(decay)), _CURVATURE)]).rsqrt()
    parameters = (start / scale).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=_STEPS,
        max_eval=2 * _STEPS,
        history_size=12,
        tolerance_grad=1e-5,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def closure() -> float:
        scaled = parameters * scale
        matrix, bias = scaled[:-1], scaled[-1]
        value, slopes = loss(torch.addmm(bias, features, matrix), matrix)
        parameters.grad = scale * torch.cat([features.T @ slopes + decay * matrix, slopes.sum(dim=0, keepdim=True)])
        return float(value)

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return parameters.detach() * scale


def logits(features: Tensor, parameters: Tensor) -> Tensor:
    """Return the logits ``(D, N, C)`` of features ``(N, H)`` with parameters ``(D, H + 1, C)``."""
    return torch.baddbmm(parameters[:, -1:], features.expand(len(parameters), -1, -1), parameters[:, :-1])


def refit_columns(
    features: Tensor, labels: Tensor, weights: Tensor, penalty: float, head: Tensor, columns: Tensor
) -> Tensor:
    """Refit one column of a head, its other columns fixed, for each of ``D`` other sets of row weights.

    With the logits of the other classes fixed, a class's probability is ``sigmoid(x w + b - s)``, where ``s`` is the
    log-sum-exp of those logits: a binary logistic regression with an offset, on a ``C``-th of the parameters.

    The other arguments are those of `fit_heads`; ``head`` has the parameters ``(H + 1, C)``, ``columns`` the class of
    each regression, int64 ``(D,)``. The result are the columns ``(D, H + 1)``, the bias last.
    """
    used = weights.any(dim=0)
    features, labels, weights = features[used], labels[used], weights[:, used]
    share = (weights / weights.sum(dim=1, keepdim=True)).T.contiguous()  # (N, D)
    decay = penalty / weights.sum(dim=1)  # (D,)
    offsets = _others(logits(features, head[None])[0])[:, columns]
    signs = torch.where(labels[:, None] == columns, 1.0, -1.0)

    def loss(scores: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
        margins = signs * (scores - offsets)
        value = -(share * nn.functional.logsigmoid(margins)).sum() + (decay * matrix.square()).sum() / 2
        return value, -signs * share * torch.sigmoid(-margins)

    return _minimized(features, decay, head[:, columns], loss).T


def _others(scores: Tensor) -> Tensor:
    """Return for each row and class of logits ``(N, C)`` the log-sum-exp of the other classes' logits."""
    exact = scores.double()
    whole = exact.logsumexp(dim=1, keepdim=True)
    rest = torch.log1p(-(exact - whole).exp().clamp(max=1 - 1e-12))
    return (whole + rest).float()


def predict_refitted(features: Tensor, head: Tensor, columns: Tensor, refitted: Tensor) -> Tensor:
    """Return the classes ``(D, N)`` of features ``(N, H)`` by a head in which one column at a time is replaced.

    The head has parameters ``(H + 1, C)``; ``columns`` are the classes ``(D,)`` of the new columns ``(D, H + 1)``.
    """
    best = logits(features, head[None])[0].topk(2, dim=1)
    first = best.indices[:, :1] != columns  # (N, D)
    score = torch.where(first, best.values[:, :1], best.values[:, 1:])
    label = torch.where(first, best.indices[:, :1], best.indices[:, 1:])
    own = torch.addmm(refitted[:, -1], features, refitted[:, :-1].T)
    return torch.where(own > score, columns, label).T
