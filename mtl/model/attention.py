"""Fused MPNet: scaled dot-product attention with position bias and padding mask in one additive bias.

transformers implements MPNet in plain operations only. It expands the relative position bias to the whole batch and
adds bias and mask in every layer; here both become one tensor, made once per batch, which the layers take as their
attention mask. Weights and parameter names stay as they are, and so does the model's own forward pass.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in this field
from torch import Tensor, nn
from transformers import MPNetModel
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder, MPNetSelfAttention

from mtl.model.cpu.attention import plain_attention

_CACHED_LENGTH: Final = 512  # the longest input of MPNet; a longer one makes the table grow


def fuse_mpnet(model: MPNetModel) -> MPNetModel:
    """Swap the attention of a loaded MPNet for the fused one, in place."""
    model.encoder.__class__ = FusedMPNetEncoder
    model.encoder.offsets_buckets = {}
    for layer in model.encoder.layer:
        layer.attention.attn.__class__ = FusedMPNetSelfAttention
    return model


class FusedMPNetSelfAttention(MPNetSelfAttention):  # type: ignore[misc]
    """Self-attention that takes one additive bias, (1 or B, heads, S, S), which already holds the padding mask."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, position_bias: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, ...]:
        """Return the new hidden states, (B, S, H)."""
        if position_bias is not None:  # in the model's own pass
            stock: tuple[Tensor, ...] = super().forward(hidden_states, attention_mask, position_bias, **kwargs)
            return stock
        query, key, value = (self._heads(project(hidden_states)) for project in (self.q, self.k, self.v))
        bias = attention_mask.to(query.dtype)
        dropout = self.dropout.p if self.training else 0.0
        if self.training and query.device.type == "cpu":  # the fused one is slow backwards there
            context, _ = plain_attention(self, query, key, value, bias, dropout=dropout)  # (B, S, heads, H / heads)
            return (self.o(context.flatten(2)),)
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        return (self.o(context.transpose(1, 2).flatten(2)),)

    def _heads(self, projected: Tensor) -> Tensor:
        """Split (B, S, H) into (B, heads, S, H / heads)."""
        return projected.view(*projected.shape[:2], -1, self.attention_head_size).transpose(1, 2)


class FusedMPNetEncoder(MPNetEncoder):  # type: ignore[misc]
    """The stack of layers, all of which share one bias."""

    # For each device the bucket of every offset from ``-L + 1`` to ``L - 1``, with ``L`` the longest input so far; the
    # part for a shorter input lies in its middle
    offsets_buckets: dict[torch.device, Tensor]

    def attention_bias(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Return what to add to the attention scores of every layer.

        Args:
            hidden: The layers' input, (B, S, H); its shape, device and type count.
            mask: True (or not 0) at real tokens, (B, S), or None.

        Returns:
            The bias in the type in which attention computes (autocast's, if on): (1, heads, S, S) without a mask,
            else (B, heads, S, S). Gradients flow from it to ``relative_attention_bias``.
        """
        position = self._position_bias(hidden.shape[1], hidden.device).to(compute_dtype(hidden))
        if mask is None:
            return position
        # The lowest finite number, not -inf: a row of padding alone gives a mean over it instead of NaN.
        padding = ~mask.bool()[:, None, None, :]
        return position.masked_fill(padding, torch.finfo(position.dtype).min)

    def _position_bias(self, length: int, device: torch.device) -> Tensor:
        """Return the relative position bias, (1, heads, S, S), which depends on the offset of key and query alone.

        The table is looked up once an offset, 2S - 1 times instead of S * S, and its windows are the rows.
        """
        by_offset: Tensor = self.relative_attention_bias(self._buckets(length, device)).t()  # (heads, 2S - 1)
        windows = by_offset.unfold(-1, length, 1)  # (heads, S, S): window w starts at the offset w - S + 1
        return windows.flip(1).unsqueeze(0)  # query i: window S - 1 - i

    def _buckets(self, length: int, device: torch.device) -> Tensor:
        """Return the buckets of the offsets (key minus query) from ``-length + 1`` to ``length - 1``."""
        buckets = self.offsets_buckets.get(device)
        if buckets is None or len(buckets) < 2 * length - 1:
            longest = max(length, _CACHED_LENGTH)
            with torch.inference_mode(False):  # a table made in inference mode could not be used in training
                offsets = torch.arange(-longest + 1, longest, device=device)
                buckets = self.offsets_buckets[device] = self.relative_position_bucket(offsets)
        surplus = (len(buckets) - (2 * length - 1)) // 2
        return buckets[surplus : len(buckets) - surplus]


def compute_dtype(hidden: Tensor) -> torch.dtype:
    """Return the type of queries and keys: autocast's where it is on, which leaves float64 alone, else their own."""
    kind = hidden.device.type
    lowered = torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if lowered else hidden.dtype


def is_mpnet(model: nn.Module) -> bool:
    """Tell whether ``fuse_mpnet`` takes the model."""
    return isinstance(getattr(model, "encoder", None), MPNetEncoder)
