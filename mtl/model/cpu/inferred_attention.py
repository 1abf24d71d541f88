"""Attention on the CPU where nothing is learned: without dropout and without a graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in this field
from torch import Tensor

LONGEST_IN_PLAIN = 256
"""Tokens of a row up to which bf16 is attended in plain operations: 2 to 4 times faster than the CPU's fused attention
at 7 to 256 tokens, for a block of all scores in memory."""

_LEAST_SUM = 1e-30
"""Far from where exponentials leave the range of bf16 (and float32), 1e-38 to 3e38."""


def inferred_attention(query: Tensor, key: Tensor, value: Tensor, added: Tensor | None, scale: float) -> Tensor:
    """Return the context ``softmax(q k^T * scale + added) v``, ``(B, heads, S, D)``, by what is faster.

    Args:
        query: ``(B, heads, S, D)``, without a graph.
        key: As ``query``.
        value: As ``query``.
        added: What to add to the scores, of the same type, ``(1 or B, 1 or heads, 1 or S, S)``.
        scale: Factor of the scores.
    """
    if query.dtype != torch.bfloat16 or query.shape[2] > LONGEST_IN_PLAIN:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=added, scale=scale)
    scores = torch.matmul(query, key.transpose(2, 3)).mul_(scale)  # (B, heads, S, S)
    return _averaged(scores if added is None else scores.add_(added), value)


def _averaged(scores: Tensor, value: Tensor) -> Tensor:
    """Return ``softmax(scores) value``.

    PyTorch's softmax takes the maximum off each row first, which keeps exponentials in range, and is slow where rows
    are short. Most scores are in range as they are. The sums show it: all of them are moderate then, and what is left
    is a division of the context, which is smaller than the scores.
    """
    weights = scores.exp()
    sums = weights.sum(dim=-1, keepdim=True)  # (B, heads, S, 1)
    least, most = sums.aminmax()
    if least > _LEAST_SUM and most < 1 / _LEAST_SUM:  # false for NaN
        return torch.matmul(weights, value).div_(sums)
    return torch.matmul(scores.softmax(dim=-1), value)
