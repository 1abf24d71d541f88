"""FAMO: weights under which the losses of all tasks fall at the same rate, from the losses alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mtl.training.combination import Combination, Weights

_TINY = 1e-8
_BETAS = (0.9, 0.999)


class Famo(Combination):
    r"""Fast adaptive multitask optimization (Liu, Feng, Stone & Liu 2023, algorithm 1).

    The network follows the gradient of ``c * sum_t z_t log L_t``, which has the weights

    .. math:: w_t = \frac{z_t / L_t}{\sum_u z_u / L_u}, \quad z = \mathrm{softmax}(\xi)

    that sum to 1; the loss of a step is given as the sum with these weights, whose gradient is the same and whose value
    can be read. After the optimizer step the losses of the same rows are computed once more, without gradients, and
    the logits learn from how far each has fallen:

    .. math:: \nabla_\xi = J_z^T \delta + \gamma \xi, \quad \delta_t = \log L_t(\theta_n) - \log L_t(\theta_{n+1})

    ``J_z^T delta`` is ``z_t (delta_t - sum_u z_u delta_u)``: what fell less than the others gets more weight. The step
    on them is one of Adam (Kingma & Ba 2015), as in the authors' code. A step with rows of one task teaches the logits
    nothing. Where gradients are accumulated, the last of the batches is the one that is looked at again.

    Args:
        tasks: All tasks that learn.
        rate: Learning rate of the logits (0.025 in the paper).
        decay: gamma, which draws the logits back to 0 (0.001 in the paper).
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
        for name in ("logits", "means", "squares", "steps"):  # Adam's averages and steps, each task its own
            self.register_buffer(name, torch.zeros(len(tasks)))

    def weights(self, losses: Mapping[str, Tensor]) -> Weights:
        """Return the weights of the tasks of the step, which sum to 1; no gradient flows through them."""
        shares = self._shares(losses) / (_vector(losses) + _TINY)
        return dict(zip(losses, shares / shares.sum(), strict=True))

    def _shares(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return ``z`` over the tasks of a step."""
        return torch.softmax(self.logits[self._places(losses)], dim=0)

    def _places(self, losses: Mapping[str, Tensor]) -> list[int]:
        return [self.tasks.index(task) for task in losses]

    @torch.no_grad()
    def update(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        """Learn from the losses of the same rows before and after an optimizer step."""
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
        finite = torch.isfinite(fallen).all()  # not of a step that is skipped, which would spoil all weights behind it
        for state, new in ((self.logits, logits), (self.means, means), (self.squares, squares), (self.steps, steps)):
            state[places] = torch.where(finite, new, state[places])


class Randomness:
    """The state of the random numbers at one moment, to draw the same ones again: the same dropout for the same rows.

    Args:
        device: Where the network computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self._mps = torch.mps.get_rng_state() if device.type == "mps" else None

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same numbers inside the block, and go on behind it as if it had not been."""
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
