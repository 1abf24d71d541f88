"""How the losses of the tasks become the loss of a step: sums with fixed, learned and followed weights.

Notation: ``T`` tasks with losses ``L_t``; the loss of a step is a sum over those tasks that have rows in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

Weights = Mapping[str, "Tensor | float"]


class Combination(nn.Module):
    """The sum of the tasks' losses; others give each task a weight in it.

    What a combination learns or remembers is in its ``state_dict``, so that a resumed run goes on with it.

    Args:
        tasks: All tasks that learn. A step may have rows of only some of them.

    Attributes:
        looks_back: Whether it wants `update` called with the losses before and after each optimizer step.
    """

    looks_back = False

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)

    def weights(self, losses: Mapping[str, Tensor]) -> Weights:
        """Return the factor of each task's loss in a step with these losses.

        Args:
            losses: The loss of each task that has rows in the step, scalars.
        """
        return dict.fromkeys(losses, 1.0)

    def penalty(self, losses: Mapping[str, Tensor]) -> Tensor | None:
        """Return what is added to the weighted sum, a scalar, if anything is."""
        del losses
        return None

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a step, a scalar.

        Args:
            losses: The loss of each task that has rows in the step, scalars.
        """
        weights = self.weights(losses)
        total = torch.stack([weights[task] * loss for task, loss in losses.items()]).sum()
        penalty = self.penalty(losses)
        return total if penalty is None else total + penalty

    def set_epoch(self, batches: int) -> None:
        """Tell how many batches an epoch has, before the first one."""

    def observe(self, losses: Mapping[str, Tensor]) -> None:
        """Take note of the losses of a batch that was trained on; called once for each, behind `forward`."""

    def update(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        """Take note of the losses of the same rows before and after an optimizer step; see ``looks_back``."""


class Weighted(Combination):
    """The sum with a fixed factor for each task.

    Args:
        tasks: All tasks that learn.
        weights: Factor of each task's loss; 1 for a task that is not named.
    """

    def __init__(self, tasks: Sequence[str], weights: Mapping[str, float]) -> None:
        super().__init__(tasks)
        self._factors = dict(weights)

    def weights(self, losses: Mapping[str, Tensor]) -> Weights:
        """Return the fixed factors."""
        return {task: self._factors.get(task, 1.0) for task in losses}


class Uncertainty(Combination):
    r"""Weights by the uncertainty of each task, which is learned (Kendall, Gal & Cipolla 2018, equation 10).

    .. math:: \sum_t e^{-s_t} L_t + \frac{s_t}{2}, \quad s_t = \log \sigma_t^2

    which is the paper's term of a classification, ``L / sigma² + log sigma``. A task whose loss stays high gets less
    weight; the second part keeps the weight from going to 0. At the start all s are 0: the plain sum.

    Attributes:
        log_variances: ``s_t`` of each task, learned with the network. Each is a tensor of its own, so that a step
            without rows of its task, which has no gradient for it, leaves it and its averages in Adam alone.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks)
        self.log_variances = nn.ParameterDict({_key(task): nn.Parameter(torch.zeros(())) for task in tasks})

    def weights(self, losses: Mapping[str, Tensor]) -> Weights:
        """Return ``exp(-s)``, with its gradient."""
        return {task: torch.exp(-self.log_variances[_key(task)]) for task in losses}

    def penalty(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of ``s / 2`` over the tasks of the step."""
        return torch.stack([self.log_variances[_key(task)] for task in losses]).sum() / 2


class DynamicWeightAverage(Combination):
    r"""Dynamic weight average (Liu, Johns & Davison 2019, equation 7): what falls slowest counts most.

    .. math:: w_t = \frac{T \exp(r_t / \tau)}{\sum_u \exp(r_u / \tau)}, \quad r_t = \frac{L_t(n-1)}{L_t(n-2)}

    with ``L_t(n)`` the mean loss of the task over the ``n``-th window, which is an epoch in the paper. In the first two
    windows all r are 1, and so are the weights. They sum to the number of tasks, always.

    Args:
        tasks: All tasks that learn.
        temperature: tau; the higher, the more alike the weights.
        window: Batches of a window; nothing for those of an epoch, see `set_epoch`.
    """

    past: Tensor
    sums: Tensor
    counts: Tensor

    def __init__(self, tasks: Sequence[str], *, temperature: float, window: int | None = None) -> None:
        super().__init__(tasks)
        self._temperature = temperature
        self._window = window
        self._batches = 0  # of the window that is going on
        self._windows = 0  # that are over
        self.register_buffer("past", torch.zeros(2, len(tasks)))  # means of the last two windows, the older one first
        self.register_buffer("sums", torch.zeros(len(tasks)))
        self.register_buffer("counts", torch.zeros(len(tasks)))

    def set_epoch(self, batches: int) -> None:
        """Take an epoch for the window, unless another one was chosen."""
        self._window = self._window or batches

    def weights(self, losses: Mapping[str, Tensor]) -> Weights:
        """Return the weights of the present window; those of all tasks sum to ``T``."""
        if self._windows < 2:
            return dict.fromkeys(losses, self.sums.new_ones(()))
        older, newer = self.past
        ratios = torch.where(older > 0, newer / older, torch.ones_like(older))
        shares = torch.softmax(ratios / self._temperature, dim=0)
        found = dict(zip(self.tasks, len(self.tasks) * shares, strict=True))
        return {task: found[task] for task in losses}

    def observe(self, losses: Mapping[str, Tensor]) -> None:
        """Add the finite losses of a batch to their window, and begin a new one where it is full."""
        for task, loss in losses.items():
            at, finite = self.tasks.index(task), torch.isfinite(loss.detach())
            self.sums[at] += torch.where(finite, loss.detach(), 0.0)
            self.counts[at] += finite
        self._batches += 1
        if self._batches == self._window:
            self._next_window()

    def _next_window(self) -> None:
        """Close a window; a task without rows in it keeps its mean, so that its ratio is 1."""
        means = torch.where(self.counts > 0, self.sums / self.counts.clamp_min(1), self.past[1])
        self.past = torch.stack([self.past[1], means])
        self.sums.zero_()
        self.counts.zero_()
        self._batches = 0
        self._windows += 1

    def get_extra_state(self) -> Tensor:
        """Return where the window stands, its batches and the windows before it: a tensor, as all of a state is."""
        return torch.tensor([self._batches, self._windows])

    def set_extra_state(self, state: Tensor) -> None:
        """Take what `get_extra_state` returned."""
        self._batches, self._windows = state.tolist()


def _key(task: str) -> str:
    """Return a task's key in a module dictionary, see `mtl.model.multitask`."""
    return f"{task}_"
