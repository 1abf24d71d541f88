"""Combine the tasks' losses into the loss of a step, by weights or by an aggregation of their gradients.

Notation: ``T`` tasks with losses ``L_t``; the loss of a step sums over the tasks that have rows in it.

A new way to combine losses is a class and a line in `COMBINATIONS`, and its name and settings in `mtl.config.loss`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from mtl.config.loss import AGGREGATIONS, LossConfig

Weights = Mapping[str, "Tensor | float"]


def task_key(task: str) -> str:
    """Return a task's key in a module dictionary, see `mtl.model.network`."""
    return f"{task}_"


class Combination(nn.Module):
    """The sum of the losses of all trained tasks; subclasses give each task a weight.

    The state of a combination is in its ``state_dict``, so that a resumed run continues with it.
    """

    looks_back = False  # whether `update` is to be called with the losses before and after each optimizer step
    rate = 0.0  # the learning rate of its parameters, if it has any; they are learned with the network

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)

    def weights(self, losses: Mapping[str, Tensor]) -> Weights:
        """Return the weight of each task in a step, given the loss of each task with rows in it, scalars."""
        return dict.fromkeys(losses, 1.0)

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a step, a scalar; see `weights`."""
        weights = self.weights(losses)
        return torch.stack([weights[task] * loss for task, loss in losses.items()]).sum()

    def set_epoch(self, batches: int) -> None:
        """Set the number of batches of an epoch, before the first one."""

    def observe(self, losses: Mapping[str, Tensor]) -> None:
        """Update the state from the losses of a batch; called once per batch, after `forward`."""

    def update(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        """Update the state from the losses of the same rows before and after an optimizer step; see ``looks_back``."""


class Weighted(Combination):
    """The sum with a fixed weight for each task, by default 1."""

    def __init__(self, tasks: Sequence[str], weights: Mapping[str, float]) -> None:
        super().__init__(tasks)
        self._factors = dict(weights)

    def weights(self, losses: Mapping[str, Tensor]) -> Weights:
        """Return the fixed weights."""
        return {task: self._factors.get(task, 1.0) for task in losses}


class Uncertainty(Combination):
    r"""Weights by the learned uncertainty of each task (Kendall, Gal & Cipolla 2018, equation 10).

    .. math:: \sum_t e^{-s_t} L_t + \frac{s_t}{2}, \quad s_t = \log \sigma_t^2

    the paper's term for classification, ``L / sigma² + log sigma``. A task whose loss stays high gets less weight; the
    second term keeps the weight from vanishing. Initially all s are 0, which gives the plain sum.

    Each s is a separate tensor, so that a step without rows of its task has no gradient for it and changes neither the
    value nor Adam's averages. ``rate`` is their learning rate.
    """

    def __init__(self, tasks: Sequence[str], *, rate: float) -> None:
        super().__init__(tasks)
        self.rate = rate
        self.log_variances = nn.ParameterDict({task_key(task): nn.Parameter(torch.zeros(())) for task in tasks})

    def weights(self, losses: Mapping[str, Tensor]) -> Weights:
        """Return ``exp(-s)``, with its gradient."""
        return {task: torch.exp(-self.log_variances[task_key(task)]) for task in losses}

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum, plus ``s / 2`` of each task of the step."""
        penalty = torch.stack([self.log_variances[task_key(task)] for task in losses]).sum() / 2
        return super().forward(losses) + penalty


class DynamicWeightAverage(Combination):
    r"""Dynamic weight average (Liu, Johns & Davison 2019, equation 7): tasks whose loss falls slowest get most weight.

    .. math:: w_t = \frac{T \exp(r_t / \tau)}{\sum_u \exp(r_u / \tau)}, \quad r_t = \frac{L_t(n-1)}{L_t(n-2)}

    with ``L_t(n)`` the mean loss of the task over the ``n``-th window, which is an epoch in the paper. In the first two
    windows all ratios and weights are 1. The weights always sum to the number of tasks.

    Args:
        tasks: All trained tasks.
        temperature: tau; the higher it is, the more equal are the weights.
        window: Batches of a window; None for an epoch.
    """

    past: Tensor
    sums: Tensor
    counts: Tensor

    def __init__(self, tasks: Sequence[str], *, temperature: float, window: int | None = None) -> None:
        super().__init__(tasks)
        self._temperature = temperature
        self._window = window
        self._batches = 0  # of the current window
        self._windows = 0  # that are complete
        self.register_buffer("past", torch.zeros(2, len(tasks)))  # means of the last two windows, older first
        self.register_buffer("sums", torch.zeros(len(tasks)))
        self.register_buffer("counts", torch.zeros(len(tasks)))

    def set_epoch(self, batches: int) -> None:
        """Use an epoch as the window, unless its size is given."""
        self._window = self._window or batches

    def weights(self, losses: Mapping[str, Tensor]) -> Weights:
        """Return the weights of the current window; those of all tasks sum to ``T``."""
        if self._windows < 2:
            return dict.fromkeys(losses, self.sums.new_ones(()))
        older, newer = self.past
        ratios = torch.where(older > 0, newer / older, torch.ones_like(older))
        shares = torch.softmax(ratios / self._temperature, dim=0)
        return {task: len(self.tasks) * shares[self.tasks.index(task)] for task in losses}

    def observe(self, losses: Mapping[str, Tensor]) -> None:
        """Add the finite losses of a batch to the window, and start a new one when it is full."""
        for task, loss in losses.items():
            at, finite = self.tasks.index(task), torch.isfinite(loss.detach())
            self.sums[at] += torch.where(finite, loss.detach(), 0.0)
            self.counts[at] += finite
        self._batches += 1
        if self._batches != self._window:
            return
        # a task without rows in the window keeps its mean, so that its ratio is 1
        means = torch.where(self.counts > 0, self.sums / self.counts.clamp_min(1), self.past[1])
        self.past = torch.stack([self.past[1], means])
        self.sums.zero_()
        self.counts.zero_()
        self._batches = 0
        self._windows += 1

    def get_extra_state(self) -> Tensor:
        """Return the batches of the window and the number of complete windows, as a tensor like the other state."""
        return torch.tensor([self._batches, self._windows])

    def set_extra_state(self, state: Tensor) -> None:
        """Restore what `get_extra_state` returned."""
        self._batches, self._windows = state.tolist()


_TINY = 1e-8
_BETAS = (0.9, 0.999)


class Famo(Combination):
    r"""Fast adaptive multitask optimization (Liu, Feng, Stone & Liu 2023, algorithm 1).

    The network follows the gradient of ``c * sum_t z_t log L_t``, which has the weights

    .. math:: w_t = \frac{z_t / L_t}{\sum_u z_u / L_u}, \quad z = \mathrm{softmax}(\xi)

    that sum to 1. The loss of a step is the sum with these weights, which has the same gradient and a value that can be
    interpreted. After the optimizer step the losses of the same rows are computed again, without gradients, and the
    logits are updated by how much each has fallen:

    .. math:: \nabla_\xi = J_z^T \delta + \gamma \xi, \quad \delta_t = \log L_t(\theta_n) - \log L_t(\theta_{n+1})

    ``J_z^T delta`` is ``z_t (delta_t - sum_u z_u delta_u)``: losses that fell less get more weight. The logits are
    updated by Adam (Kingma & Ba 2015), as in the authors' code. A step with rows of a single task does not change them.
    With accumulated gradients the last batch is the one that is computed again.

    The paper has a ``rate`` of 0.025, the learning rate of the logits, and a ``decay`` gamma of 0.001.
    """

    looks_back = True
    logits: Tensor
    means: Tensor
    squares: Tensor
    steps: Tensor

    def __init__(self, tasks: Sequence[str], *, rate: float, decay: float) -> None:
        super().__init__(tasks)
        self._rate = rate
        self._decay = decay
        for name in ("logits", "means", "squares", "steps"):  # with Adam's averages and steps of each task
            self.register_buffer(name, torch.zeros(len(tasks)))

    def weights(self, losses: Mapping[str, Tensor]) -> Weights:
        """Return the weights of the tasks of the step, which sum to 1 and have no gradient."""
        shares = torch.softmax(self.logits[self._places(losses)], dim=0) / (_vector(losses) + _TINY)
        return dict(zip(losses, shares / shares.sum(), strict=True))

    def _places(self, losses: Mapping[str, Tensor]) -> list[int]:
        return [self.tasks.index(task) for task in losses]

    @torch.no_grad()
    def update(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        """Update the logits from the losses of the same rows before and after an optimizer step."""
        if len(before) < 2:
            return
        fallen = torch.log(_vector(before) + _TINY) - torch.log(_vector(after) + _TINY)
        places = self._places(before)
        logits, steps = self.logits[places], self.steps[places] + 1
        shares = torch.softmax(logits, dim=0)
        gradient = shares * (fallen - (shares * fallen).sum()) + self._decay * logits
        means = _BETAS[0] * self.means[places] + (1 - _BETAS[0]) * gradient
        squares = _BETAS[1] * self.squares[places] + (1 - _BETAS[1]) * gradient**2
        mean = means / (1 - _BETAS[0] ** steps)
        square = squares / (1 - _BETAS[1] ** steps)
        logits = logits - self._rate * mean / (square.sqrt() + _TINY)
        finite = torch.isfinite(fallen).all()  # a skipped step must not reach the weights
        for state, new in ((self.logits, logits), (self.means, means), (self.squares, squares), (self.steps, steps)):
            state[places] = torch.where(finite, new, state[places])


GramianWeighting = Callable[[Tensor], Tensor]
"""From the Gramian ``(T, T)`` of the tasks' gradients to the weight of each, ``(T,)``."""


class GradientAggregation(Combination):
    """Give the shared parameters a combination of the tasks' gradients that depends on the angles between them.

    Each task is differentiated separately, with its own backward pass through the encoder. The inner products of these
    gradients over all trained shared parameters determine the weights of their sum. The parameters of heads get the
    gradient of the plain sum, which for a head of one task is the gradient of this task.

    The loss of a step is the sum; its backward pass is `backward`.
    """

    def __init__(self, tasks: Sequence[str], weighting: GramianWeighting) -> None:
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
        encoder, heads = ([parameter for parameter in part if parameter.requires_grad] for part in (shared, own))
        rows: list[list[Tensor | None]] = []
        for at, task_loss in enumerate(losses):
            gradients = torch.autograd.grad(
                task_loss, [*encoder, *heads], scale, retain_graph=at + 1 < len(losses), allow_unused=True
            )
            rows.append(list(gradients[: len(encoder)]))
            for parameter, gradient in zip(heads, gradients[len(encoder) :], strict=True):
                _add(parameter, gradient)
        if rows and encoder:
            weights = self._weights(gramian(rows))
            for parameter, *of_tasks in zip(encoder, *rows, strict=True):
                _add(parameter, _weighted(weights, of_tasks))

    def _weights(self, products: Tensor) -> list[float]:
        """Return the weights; 1 if a gradient is not finite, so that the guard of steps still detects it."""
        products = products.cpu()  # the only synchronisation with the device
        if not products.isfinite().all():
            return [1.0] * len(products)
        weights: list[float] = self._weighting(products).tolist()
        return weights


def gramian(rows: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """Return the inner products ``(T, T)`` of the gradients of ``T`` tasks, each by parameter; None stands for 0."""
    products = [[_product(row, other) for other in rows[: at + 1]] for at, row in enumerate(rows)]
    size = len(rows)
    return torch.stack([products[max(i, j)][min(i, j)] for i in range(size) for j in range(size)]).view(size, size)


def _product(row: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> Tensor:
    parts = [
        torch.dot(gradient.flatten(), other_gradient.flatten()).float()
        for gradient, other_gradient in zip(row, other, strict=True)
        if gradient is not None and other_gradient is not None
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


def torchjd_weighting(name: str) -> GramianWeighting:
    """Return how a method of TorchJD, an optional dependency, weights the gradients of the tasks.

    - ``upgrad``: the sum of the gradients, each projected so that it hurts no task (Quinton & Rey 2024).
    - ``pcgrad``: the sum of the gradients, each without its conflicts with the others (Yu et al. 2020, algorithm 1).
    - ``mgda``: the shortest vector between them (Désidéri 2012; Sener & Koltun 2018, algorithm 2).
    - ``aligned_mtl``: their sum after an orthogonal change to equal lengths (Senushkin et al. 2023).

    Without a conflict the first two are the sum; the others are means by nature, whose scale may differ from it.

    Raises:
        ImportError: TorchJD, or another package that the method needs, is not installed.
    """
    from torchjd import aggregation

    makers: dict[str, Callable[[Tensor], nn.Module]] = {
        "upgrad": aggregation.UPGradWeighting,
        "pcgrad": lambda _: aggregation.PCGradWeighting(),
        "mgda": lambda _: aggregation.MGDAWeighting(),
        "aligned_mtl": aggregation.AlignedMTLWeighting,
    }
    make = makers[name]
    make(torch.ones(2))  # fails now if a package is missing
    return lambda products: make(torch.ones(len(products)))(products)


COMBINATIONS: Final[Mapping[str, Callable[[Sequence[str], LossConfig], Combination]]] = {
    "sum": lambda tasks, _: Combination(tasks),
    "weighted": lambda tasks, loss: Weighted(tasks, loss.weights),
    "uncertainty": lambda tasks, loss: Uncertainty(tasks, rate=loss.uncertainty.rate),
    "dwa": lambda tasks, loss: DynamicWeightAverage(tasks, temperature=loss.dwa.temperature, window=loss.dwa.window),
    "famo": lambda tasks, loss: Famo(tasks, rate=loss.famo.rate, decay=loss.famo.decay),
    **dict.fromkeys(AGGREGATIONS, lambda tasks, loss: GradientAggregation(tasks, torchjd_weighting(loss.combine))),
}
"""The values of ``loss.combine``, each with its constructor from the trained tasks and the settings."""


def _vector(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([loss.detach().float() for loss in losses.values()])
