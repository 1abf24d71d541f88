"""Plain attention for training on the CPU, in families that take their attention from transformers' interface.

On a CPU the backward pass of ``scaled_dot_product_attention`` is slow in bf16, and with dropout it computes in plain
operations anyhow, with PyTorch's dropout; measured in ``tests/benchmarks``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from mtl.model.cpu.dropout import fast_dropout

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
        query: ``(B, heads, S, D)``.
        key: As ``query``.
        value: As ``query``.
        attention_mask: True where a key may be seen, ``(B, 1, S, S)`` or ``(B, 1, 1, S)``; nothing to see all.
        scaling: Factor of the scores; ``D ** -0.5`` if it is not given.
        dropout: Share of the probabilities that is dropped; the layer gives 0 outside training.

    Returns:
        The context ``(B, S, heads, D)``, and nothing: the probabilities are not kept.
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
