"""Attention on the CPU: without a graph for inference, and in plain operations for training.

On a CPU the backward pass of ``scaled_dot_product_attention`` is slow in bf16, and with dropout it computes in plain
operations anyway, with PyTorch's dropout; measured in ``tests/benchmarks``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in this field
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from mtl.model.cpu.dropout import fast_dropout

LONGEST_IN_PLAIN = 256
"""Tokens of a row up to which bf16 is attended in plain operations: 2 to 4 times faster than the CPU's fused attention
at 7 to 256 tokens, for a block of all scores in memory."""

_LEAST_SUM = 1e-30
"""Far from where exponentials leave the range of bf16 (and float32), 1e-38 to 3e38."""


def inferred_attention(query: Tensor, key: Tensor, value: Tensor, added: Tensor | None, scale: float) -> Tensor:
    """Return the context ``softmax(q k^T * scale + added) v`` by what is faster.

    Query, key, value and context are ``(B, heads, S, D)``, without a graph; ``added`` is of their type,
    ``(1 or B, 1 or heads, 1 or S, S)``.
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


NAME = "mtl_plain"
"""What the implementation is called in ``set_attn_implementation``."""


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend as ``softmax(q k^T * scaling + mask) v``, the softmax in float32 (Vaswani et al. 2017, equation 1).

    Args:
        module: The layer that asks, see ``AttentionInterface`` of transformers.
        query: ``(B, heads, S, D)``, as key and value.
        key: See ``query``.
        value: See ``query``.
        attention_mask: True where a key may be seen, or what to add to the scores, ``(B, 1, S, S)`` or of a shape that
            expands to ``(B, heads, S, S)``; None to see all.
        scaling: Factor of the scores; ``D ** -0.5`` by default.
        dropout: Share of the probabilities that is dropped; the layer gives 0 outside training.

    Returns:
        The context ``(B, S, heads, D)``, and None: the probabilities are not kept.
    """
    del module
    scores = torch.matmul(query, key.transpose(2, 3)).float() * (
        query.shape[-1] ** -0.5 if scaling is None else scaling
    )
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        # The lowest finite number, not -inf: a row of padding alone gives a mean over it instead of NaN.
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    probabilities = fast_dropout(scores.softmax(dim=-1), dropout)
    context = torch.matmul(probabilities.to(value.dtype), value)
    return context.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, plain_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
