"""Aggregate the tasks' gradients: the shared encoder follows a direction that conflicts with none of them.

The quadratic programs and projections are those of TorchJD, an optional dependency (``pip install 'mtl[gradients]'``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mtl.training.combination import Combination

Weighting = Callable[[Tensor], Tensor]
"""From the Gramian ``(T, T)`` of the tasks' gradients to the weight of each, ``(T,)``."""


class GradientAggregation(Combination):
    """Give the shared parameters a combination of the tasks' gradients that depends on the angles between them.

    Each task is differentiated separately, with its own backward pass through the encoder. The inner products of these
    gradients over all trained shared parameters determine the weights of their sum. The parameters of heads get the
    gradient of the plain sum, which for a head of one task is the gradient of this task.

    The loss of a step is the sum; its backward pass is `backward`.
    """

    def __init__(self, tasks: Sequence[str], weighting: Weighting) -> None:
        super().__init__(tasks)
        self._weighting = weighting
        self._pending: tuple[Tensor, list[Tensor]] | None = None

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of the losses, detached from their graph, which `backward` uses."""
        total = torch.stack([loss.detach() for loss in losses.values()]).sum().requires_grad_()
        self._pending = (total, [loss for loss in losses.values() if loss.requires_grad])
        return total

    def backward(self, loss: Tensor, shared: Iterable[nn.Parameter], own: Iterable[nn.Parameter]) -> None:
        """Add the gradients of a step to those of the parameters.

        Args:
            loss: The loss that `forward` returned, as Lightning has scaled it.
            shared: Parameters that all tasks share.
            own: Parameters of heads.
        """
        if self._pending is None:
            raise RuntimeError("backward must be called once after each forward")
        (total, losses), self._pending = self._pending, None
        (scale,) = torch.autograd.grad(loss, total)
        inner, outer = ([each for each in some if each.requires_grad] for some in (shared, own))
        rows: list[list[Tensor | None]] = []
        for at, each in enumerate(losses):
            found = torch.autograd.grad(
                each, [*inner, *outer], scale, retain_graph=at + 1 < len(losses), allow_unused=True
            )
            rows.append(list(found[: len(inner)]))
            for parameter, gradient in zip(outer, found[len(inner) :], strict=True):
                _add(parameter, gradient)
        if rows and inner:
            weights = self._weights(gramian(rows))
            for parameter, *gradients in zip(inner, *rows, strict=True):
                _add(parameter, _weighted(weights, gradients))

    def _weights(self, products: Tensor) -> list[float]:
        """Return the weights; 1 where a gradient is not finite, so that who looks for that still finds it."""
        products = products.cpu()  # where weightings are computed; the one time that the device is waited for
        if not products.isfinite().all():
            return [1.0] * len(products)
        found: list[float] = self._weighting(products).tolist()
        return found


def gramian(rows: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """Return the inner products ``(T, T)`` of the gradients of ``T`` tasks.

    Args:
        rows: For each task its gradient of each parameter; nothing stands for 0.
    """
    products = [[_product(one, other) for other in rows[: at + 1]] for at, one in enumerate(rows)]
    size = len(rows)
    return torch.stack([products[max(i, j)][min(i, j)] for i in range(size) for j in range(size)]).view(size, size)


def _product(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> Tensor:
    parts = [
        torch.dot(first.flatten(), second.flatten()).float()
        for first, second in zip(one, other, strict=True)
        if first is not None and second is not None
    ]
    return torch.stack(parts).sum() if parts else torch.zeros(())


def _weighted(weights: Sequence[float], gradients: Sequence[Tensor | None]) -> Tensor | None:
    total: Tensor | None = None
    for weight, gradient in zip(weights, gradients, strict=True):
        if gradient is not None:
            total = gradient.mul(weight) if total is None else total.add_(gradient, alpha=weight)
    return total


def _add(parameter: nn.Parameter, gradient: Tensor | None) -> None:
    if gradient is not None:
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def torchjd_weighting(name: str) -> Weighting:
    """Return how a method of TorchJD weights the gradients of the tasks.

    - ``upgrad``: each task's gradient projected onto what hurts no task, and summed (Quinton & Rey 2024).
    - ``pcgrad``: each without its part against each of the others, and summed (Yu et al. 2020, algorithm 1).
    - ``mgda``: the shortest vector between them (Désidéri 2012; Sener & Koltun 2018, algorithm 2).
    - ``aligned_mtl``: their sum after an orthogonal change that makes them equally long (Senushkin et al. 2023).

    Without a conflict the first two are the sum, whose scale the others, which are means by nature, need not have.

    Raises:
        ImportError: TorchJD or what the method needs besides is not installed.
    """
    from torchjd import aggregation

    makers: dict[str, Callable[[Tensor], nn.Module]] = {
        "upgrad": aggregation.UPGradWeighting,
        "pcgrad": lambda _: aggregation.PCGradWeighting(),
        "mgda": lambda _: aggregation.MGDAWeighting(),
        "aligned_mtl": aggregation.AlignedMTLWeighting,
    }
    make = makers[name]
    make(torch.ones(2))  # says now what is missing

    def weighting(products: Tensor) -> Tensor:
        found: Tensor = make(torch.ones(len(products)))(products.cpu())
        return found

    return weighting
