"""The loss of each task, with class weights and logit adjustment for rare classes.

Class weights are scaled to a mean of 1 over the training rows: the expected loss of a step stays the same as without
weights, and so does the meaning of learning rates, clipping and the balance between tasks. A class without training
rows has the weight 1, and counts as one row where its frequency is needed. `mtl.training.combination` combines the
losses of the tasks.

A new loss is a class and a line in `LOSSES`, or a line in `WEIGHTINGS`; its name and keys stand in `mtl.config.loss`,
the values of its keys in ``conf/loss/base.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtl.config.loss import TaskLossConfig
from mtl.training.combination import task_key

ClassValues = Callable[[TaskLossConfig, NDArray[np.int64]], NDArray[np.float64]]
"""From a task's settings and the training rows of each class ``(C,)`` to a number for each class ``(C,)``."""


def balanced_weights(counts: NDArray[np.int64], power: float = 1.0) -> NDArray[np.float64]:
    r"""Return weights that decrease with the number of rows of a class.

    .. math:: w_c \propto (n / (C n_c))^{power}

    With power 1 all classes have the same total weight, as with scikit-learn's ``class_weight="balanced"`` (King & Zeng
    2001), whose values these are. Lower powers are milder; 0 gives no weights. ``counts`` are ``n_c``, ``(C,)``.
    """
    present = counts > 0
    raw = counts.sum() / (max(1, int(present.sum())) * np.maximum(counts, 1))
    return _scaled(raw**power, counts)


def effective_number_weights(counts: NDArray[np.int64], beta: float) -> NDArray[np.float64]:
    r"""Return weights by the effective number of samples of a class (Cui et al. 2019, equation 4).

    .. math:: w_c \propto (1 - \beta) / (1 - \beta^{n_c})

    A further row adds less information the more rows a class has: at most ``1 / (1 - beta)`` rows count as different.
    With beta 0 all weights are 1; towards 1 they approach the balanced ones. The paper scales the weights to a sum of
    ``C``; the ratios of the classes are the same. ``counts`` are ``n_c``, ``(C,)``.
    """
    effective = -np.expm1(np.maximum(counts, 1) * np.log(beta)) if beta > 0 else np.ones(len(counts))
    return _scaled((1.0 - beta) / effective, counts)


def logit_offsets(counts: NDArray[np.int64], tau: float) -> NDArray[np.float64]:
    r"""Return what logit adjustment adds to the logits in the training loss (Menon et al. 2021, equation 10).

    .. math:: \tau \log \pi_c, \quad \pi_c = n_c / n

    The network then learns logits, used without offsets in predictions, that do not favour frequent classes. With tau 1
    this is consistent with the balanced error, the mean of the classes' error rates. ``counts`` are ``n_c``, ``(C,)``.
    """
    offsets: NDArray[np.float64] = tau * np.log(np.maximum(counts, 1) / max(1, counts.sum()))
    return offsets


def _scaled(raw: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the weights scaled to a mean of 1 over the rows, and 1 for classes without rows."""
    total = float((raw * counts).sum())
    return np.where(counts > 0, raw * (counts.sum() / total), 1.0) if total else np.ones(len(counts))


@dataclass(frozen=True, slots=True)
class Weighting:
    """A way to make up for rare classes."""

    text: str = ""  # what a report writes before the values, formatted with the settings of the loss
    weights: ClassValues | None = None  # the weight of each class in the loss
    offsets: ClassValues | None = None  # what is added to the logit of each class in training


WEIGHTINGS: Final[Mapping[str, Weighting]] = {
    "none": Weighting(),
    "balanced": Weighting(
        "balanced class weights (power {weighting_power:g}):",
        weights=lambda settings, counts: balanced_weights(counts, settings.weighting_power),
    ),
    "effective_number": Weighting(
        "class weights by effective number (beta {beta:g}):",
        weights=lambda settings, counts: effective_number_weights(counts, settings.beta),
    ),
    "logit_adjustment": Weighting(
        "logits adjusted in training (tau {tau:g}) by",
        offsets=lambda settings, counts: logit_offsets(counts, settings.tau),
    ),
}
"""The values of ``loss.<task>.weighting``."""


class TaskLoss(nn.Module):
    r"""The cross-entropy of one task, with class weights or logit adjustment; other losses extend it.

    With ``z`` the logits plus the offsets, ``p = softmax(z)``, ``q`` the smoothed target and ``w`` the weights:

    .. math:: \frac{1}{B} \sum_i w_{y_i} \sum_c q_{ic} \ell(p_{ic}), \quad \ell(p) = -\log p

    The sum is divided by the number of rows, not by the sum of their weights as in `torch.nn.functional.cross_entropy`:
    a row then counts the same in every batch. Otherwise a batch with rows of a single class would not be weighted at
    all, and accumulated small batches would have another gradient than one large batch.

    Args:
        weights: The weight of each class, ``(C,)``; None for 1.
        offsets: What is added to the logits in training, ``(C,)``; predictions use the logits without it.
        label_smoothing: Share of the target that is distributed over all classes (Szegedy et al. 2016, section 7).

    Attributes:
        is_cross_entropy: Whether PyTorch's fused cross-entropy computes this loss where there are no weights.
    """

    is_cross_entropy = True

    def __init__(
        self,
        *,
        weights: Sequence[float] | None = None,
        offsets: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.weights: Tensor | None
        self.offsets: Tensor | None
        for name, values in (("weights", weights), ("offsets", offsets)):
            tensor = None if values is None else torch.tensor(values, dtype=torch.float32)
            self.register_buffer(name, tensor, persistent=False)  # computed from the data, never loaded

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss over the rows, 0 if there are none, from logits ``(B, C)`` and class ids ``(B,)``."""
        if not len(labels):
            return logits.sum()  # 0, with a graph
        adjusted = logits if self.offsets is None else logits + self.offsets
        if self.weights is None and self.is_cross_entropy:
            return nn.functional.cross_entropy(adjusted, labels, label_smoothing=self.label_smoothing)
        losses = self.class_losses(adjusted.log_softmax(dim=-1))
        own = losses.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        rows = own + self.label_smoothing * (losses.mean(dim=-1) - own)
        return (rows if self.weights is None else rows * self.weights[labels]).mean()

    def class_losses(self, logs: Tensor) -> Tensor:
        """Return the loss ``(B, C)`` that each class has as the label of a row, from log-probabilities ``(B, C)``."""
        return -logs


class FocalLoss(TaskLoss):
    r"""The focal loss (Lin et al. 2017, equation 5, with class weights in the place of its alpha).

    .. math:: \ell(p) = -(1 - p)^{\gamma} \log p

    The higher gamma, the less easy rows count; 0 gives cross-entropy.
    """

    def __init__(self, gamma: float = 2.0, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.gamma = gamma
        self.is_cross_entropy = not gamma

    def class_losses(self, logs: Tensor) -> Tensor:
        """Return the loss ``(B, C)`` that each class has as the label of a row, from log-probabilities ``(B, C)``."""
        missing = -torch.expm1(logs)  # 1 - p
        return -logs * missing.clamp_min(torch.finfo(logs.dtype).eps) ** self.gamma  # finite gradients for gamma < 1


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of loss: its text in a report, and its constructor from settings and the arguments of `TaskLoss`."""

    text: str
    make: Callable[..., TaskLoss]


LOSSES: Final[Mapping[str, Kind]] = {
    "cross_entropy": Kind("cross-entropy", lambda _, **arguments: TaskLoss(**arguments)),
    "focal": Kind("focal, gamma {gamma:g}", lambda settings, **arguments: FocalLoss(settings.gamma, **arguments)),
}
"""The values of ``loss.<task>.kind``."""


def class_weights(settings: TaskLossConfig, counts: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Return the weights of the classes in a task's loss, ``(C,)``, if it has any; see `make_loss`."""
    weights = WEIGHTINGS[settings.weighting].weights
    return None if weights is None else weights(settings, counts)


def class_offsets(settings: TaskLossConfig, counts: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Return what is added to a task's logits in the loss, ``(C,)``, if anything is; see `make_loss`."""
    offsets = WEIGHTINGS[settings.weighting].offsets
    return None if offsets is None else offsets(settings, counts)


def make_loss(settings: TaskLossConfig, counts: NDArray[np.int64]) -> TaskLoss:
    """Return the loss of a task.

    Args:
        settings: Its settings.
        counts: How often rows of each class occur in a pass over the training rows, int64, ``(C,)``: rows that are
            repeated are not weighted again.
    """
    weights, offsets = class_weights(settings, counts), class_offsets(settings, counts)
    return LOSSES[settings.kind].make(
        settings,
        weights=None if weights is None else weights.tolist(),
        offsets=None if offsets is None else offsets.tolist(),
        label_smoothing=settings.label_smoothing,
    )


class TaskLosses(nn.Module):
    """The loss of every task of a batch, by default cross-entropy.

    ``consistency`` is the weight of the divergence between two passes, see `of_two_passes`; 0 for a single pass.
    """

    def __init__(self, tasks: Mapping[str, TaskLoss] | None = None, consistency: float = 0.0) -> None:
        super().__init__()
        self.consistency = consistency
        self.plain = TaskLoss()
        self.tasks = nn.ModuleDict({task_key(task): loss for task, loss in (tasks or {}).items()})

    def forward(self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the mean loss over the rows of each task, a scalar; 0 for a task without rows in this process.

        Logits are ``(B_task, C_task)``, labels class ids ``(B_task,)``.
        """
        losses = {}
        for task, values in logits.items():
            key = task_key(task)
            loss = self.tasks[key] if key in self.tasks else self.plain  # noqa: SIM401 - no get
            losses[task] = loss(values.float(), labels[task])
        return losses

    def of_two_passes(
        self, first: Mapping[str, Tensor], second: Mapping[str, Tensor], labels: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        r"""Return the loss of each task from two passes over the same rows with different dropout (R-Drop).

        .. math:: \frac{L_1 + L_2}{2} + \alpha \, D(p_1, p_2)

        with ``D`` as in `divergence` and alpha the consistency: half of the loss of Wu et al. 2021 (equation 4), whose
        own alpha is then twice this one. So learning rates and clipping mean the same as with one pass. The arguments
        are those of `forward`.
        """
        losses, again = self(first, labels), self(second, labels)
        return {
            task: (loss + again[task]) / 2 + self.consistency * divergence(first[task], second[task])
            for task, loss in losses.items()
        }


def divergence(first: Tensor, second: Tensor) -> Tensor:
    r"""Return the symmetric Kullback-Leibler divergence of two predictions, its mean over the rows, a scalar.

    .. math:: D(p, q) = \frac{1}{2} (KL(p \| q) + KL(q \| p)) = \frac{1}{2} \sum_c (p_c - q_c)(\log p_c - \log q_c)
    """
    if not len(first):
        return (first + second).sum()  # 0, with a graph
    p, q = first.float().log_softmax(dim=-1), second.float().log_softmax(dim=-1)
    return ((p.exp() - q.exp()) * (p - q)).sum(dim=-1).mean() / 2
