"""Losses: one per task, and how they become the loss of a step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class TaskLosses(nn.Module):
    """Cross-entropy of every task of a batch, and their weighted sum.

    Args:
        weights: Factor of each task's loss in the sum; 1 for a task that is not named.
        label_smoothing: Share of the target that is spread over all classes (Szegedy et al. 2016).
    """

    def __init__(self, weights: Mapping[str, float] | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.weights = dict(weights or {})
        self.label_smoothing = label_smoothing

    def forward(self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the mean loss over the rows of each task, a scalar; 0 for a task without rows in this process.

        Args:
            logits: ``(B_task, C_task)`` of each task.
            labels: Class ids ``(B_task,)`` of each task.
        """
        return {task: self._loss(values.float(), labels[task]) for task, values in logits.items()}

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if not len(labels):
            return logits.sum()  # 0, and still a part of the graph
        return nn.functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def combine(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of the tasks' losses, a scalar."""
        return torch.stack([self.weights.get(task, 1.0) * loss for task, loss in losses.items()]).sum()
