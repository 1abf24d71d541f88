"""Combine the tasks' losses into the loss of a step: fixed, learned and adaptive weights.

Notation: ``T`` tasks with losses ``L_t``; the loss of a step sums over the tasks that have rows in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

Weights = Mapping[str, "Tensor | float"]


class Combination(nn.Module):
    """The sum of the tasks' losses; subclasses give each task a weight.

    The state of a combination is in its ``state_dict``, so that a resumed run continues with it.

    Args:
        tasks: All trained tasks; a step may have rows of only some of them.

    Attributes:
        looks_back: Whether `update` is to be called with the losses before and after each optimizer step.
    """

    looks_back = False

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)

    def weights(self, losses: Mapping[str, Tensor]) -> Weights:
        """Return the weight of each task in a step, given the loss of each task with rows in it, scalars."""
        return dict.fromkeys(losses, 1.0)

    def penalty(self, losses: Mapping[str, Tensor]) -> Tensor | None:
        """Return what is added to the weighted sum, a scalar, if anything."""
        return None

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a step, a scalar; see `weights`."""
        weights = self.weights(losses)
        total = torch.stack([weights[task] * loss for task, loss in losses.items()]).sum()
        penalty = self.penalty(losses)
        return total if penalty is None else total + penalty

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

    Attributes:
        log_variances: ``s_t`` of each task, learned with the network. Each is a separate tensor, so that a step without
            rows of its task has no gradient for it and changes neither the value nor Adam's averages.
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
    r"""Dynamic weight average (Liu, Johns & Davison 2019, equation 7): tasks whose loss falls slowest get most weight.

    .. math:: w_t = \frac{T \exp(r_t / \tau)}{\sum_u \exp(r_u / \tau)}, \quad r_t = \frac{L_t(n-1)}{L_t(n-2)}

    with ``L_t(n)`` the mean loss of the task over the ``n``-th window, which is an epoch in the paper. In the first two
    windows all ratios and weights are 1. The weights always sum to the number of tasks.

    Args:
        tasks: All trained tasks.
        temperature: tau; the higher it is, the more equal are the weights.
        window: Batches of a window; None for an epoch, see `set_epoch`.
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
        weights = dict(zip(self.tasks, len(self.tasks) * shares, strict=True))
        return {task: weights[task] for task in losses}

    def observe(self, losses: Mapping[str, Tensor]) -> None:
        """Add the finite losses of a batch to the window, and start a new one when it is full."""
        for task, loss in losses.items():
            at, finite = self.tasks.index(task), torch.isfinite(loss.detach())
            self.sums[at] += torch.where(finite, loss.detach(), 0.0)
            self.counts[at] += finite
        self._batches += 1
        if self._batches == self._window:
            self._next_window()

    def _next_window(self) -> None:
        """Complete a window; a task without rows in it keeps its mean, so that its ratio is 1."""
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


def _key(task: str) -> str:
    """Return a task's key in a module dictionary, see `mtl.model.network`."""
    return f"{task}_"


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

    Args:
        tasks: All trained tasks.
        rate: Learning rate of the logits (0.025 in the paper).
        decay: gamma, which pulls the logits towards 0 (0.001 in the paper).
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
        shares = self._shares(losses) / (_vector(losses) + _TINY)
        return dict(zip(losses, shares / shares.sum(), strict=True))

    def _shares(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return ``z`` over the tasks of a step."""
        return torch.softmax(self.logits[self._places(losses)], dim=0)

    def _places(self, losses: Mapping[str, Tensor]) -> list[int]:
        return [self.tasks.index(task) for task in losses]

    @torch.no_grad()
    def update(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        """Update the logits from the losses of the same rows before and after an optimizer step."""
        if len(before) < 2:
            return
        fallen = torch.log(_vector(before) + _TINY) - torch.log(_vector(after) + _TINY)
        shares, places = self._shares(before), self._places(before)
        logits, steps = self.logits[places], self.steps[places] + 1
        gradient = shares * (fallen - (shares * fallen).sum()) + self._decay * logits
        means = _BETAS[0] * self.means[places] + (1 - _BETAS[0]) * gradient
        squares = _BETAS[1] * self.squares[places] + (1 - _BETAS[1]) * gradient**2
        mean = means / (1 - _BETAS[0] ** steps)
        square = squares / (1 - _BETAS[1] ** steps)
        logits = logits - self._rate * mean / (square.sqrt() + _TINY)
        finite = torch.isfinite(fallen).all()  # a skipped step must not reach the weights
        for state, new in ((self.logits, logits), (self.means, means), (self.squares, squares), (self.steps, steps)):
            state[places] = torch.where(finite, new, state[places])


class Randomness:
    """The random state at one moment, to repeat the same dropout for the same rows."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self._mps = torch.mps.get_rng_state() if device.type == "mps" else None

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same numbers again inside the block, and restore the random state after it."""
        outside = Randomness(self._device)
        self._restore()
        try:
            yield
        finally:
            outside._restore()

    def _restore(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)
        if self._mps is not None:
            torch.mps.set_rng_state(self._mps)


def _vector(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([loss.detach().float() for loss in losses.values()])
