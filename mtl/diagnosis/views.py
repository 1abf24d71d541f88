"""Views of a task's rows for cross-validation: an inner layer of the encoder, with what the other tasks make of a row.

A head on another task's rows has seen none of this task's labels, so what it says is evidence that no wrong label of
this task has touched: a review that the heads of a topic task hold for praise is more likely a positive one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from mtl.diagnosis.heads import Scaling, fit_heads, logits

if TYPE_CHECKING:
    from numpy.typing import NDArray

PENALTY = 1.0
"""Of the other tasks' heads."""
WEIGHT = 1.0
"""Of one other task's opinion, as the root mean square of its length; that of the embedding beside it is 1."""


def joined_views(
    embeddings: Mapping[str, NDArray[np.float32]], labels: Mapping[str, NDArray[np.int64]]
) -> dict[str, NDArray[np.float32]]:
    """Return for each task its embeddings, scaled, beside the logits that each other task's head gives its rows.

    Args:
        embeddings: The embeddings of each task's training rows ``(N, H)``, of one layer.
        labels: Their class ids ``(N,)``, for the tasks whose heads are to be asked.

    Returns:
        For each task ``(N, H + C of the other tasks)``.
    """
    heads = {task: _head(embeddings[task], ids) for task, ids in labels.items()}
    found = {}
    for task, rows in embeddings.items():
        parts = [Scaling.of(rows)(rows).numpy()]
        parts += [_opinion(rows, *head) for other, head in heads.items() if other != task]
        found[task] = np.concatenate(parts, axis=1)
    return found


def _head(rows: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[Scaling, torch.Tensor]:
    scaling = Scaling.of(rows)
    weights, penalty = torch.ones(1, len(rows)), torch.tensor([PENALTY])
    return scaling, fit_heads(scaling(rows), torch.from_numpy(labels), weights, penalty, int(labels.max()) + 1)


def _opinion(rows: NDArray[np.float32], scaling: Scaling, head: torch.Tensor) -> NDArray[np.float32]:
    """Return the logits ``(N, C)`` of a head, with mean 0 and the length `WEIGHT` in the root mean square."""
    found = logits(scaling(rows), head)[0]
    found = found - found.mean(dim=1, keepdim=True)
    found = found - found.mean(dim=0)
    length = found.square().sum(dim=1).mean().sqrt().clamp(min=1e-12)
    opinion: NDArray[np.float32] = (WEIGHT * found / length).numpy()
    return opinion
