"""Pooling: one embedding per sentence from the hidden states of its tokens, and the layers that may follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from mtl.model.layout import DenseSpec

ACTIVATIONS: Final[dict[str, type[nn.Module]]] = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
}
"""The activations that a `Dense` may have, by the names of `mtl.model.layout`."""


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average the hidden states of the real tokens (Reimers & Gurevych 2019, https://arxiv.org/abs/1908.10084).

    The sum runs in float32 whatever the type of ``hidden``: in bfloat16 it would lose a digit from 256 tokens on.
    What stands at padded positions, be it NaN, does not count; a row without any token gives zeros.

    Args:
        hidden: Hidden states, (B, S, H).
        mask: True (or not 0) at real tokens, (B, S).

    Returns:
        Embeddings, (B, H), float32.
    """
    real = mask.bool()
    return _sum(hidden, real) / real.sum(dim=1, keepdim=True).clamp(min=1)


def mean_sqrt_len_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Sum the hidden states of the real tokens and divide by the square root of their number; see `mean_pool`."""
    real = mask.bool()
    return _sum(hidden, real) / real.sum(dim=1, keepdim=True).clamp(min=1).sqrt()


def weighted_mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average the hidden states of the real tokens, the first with weight 1, the second with 2 and so on.

    For causal models, whose later tokens have seen more (Muennighoff 2022, https://arxiv.org/abs/2202.08904, equation
    2); see `mean_pool` for arguments and result.
    """
    real = mask.bool()
    weights = real.cumsum(dim=1) * real  # (B, S)
    weighted = hidden.float() * weights.unsqueeze(-1)
    return _sum(weighted, real) / weights.sum(dim=1, keepdim=True).clamp(min=1)


def max_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Take the largest value of each dimension over the real tokens; see `mean_pool` for arguments and result."""
    real = mask.bool()
    largest = hidden.float().masked_fill(~real.unsqueeze(-1), float("-inf")).max(dim=1).values  # (B, H)
    return largest.masked_fill(~real.any(dim=1, keepdim=True), 0.0)


def cls_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Take the hidden state of each row's first real token, which padding on the left moves away from position 0.

    Args:
        hidden: Hidden states, (B, S, H).
        mask: True (or not 0) at real tokens, (B, S).

    Returns:
        Embeddings, (B, H), float32.
    """
    return _at(hidden, mask.int().argmax(dim=1))


def last_token_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Take the hidden state of each row's last real token, on whichever side the padding is; see `cls_pool`."""
    return _at(hidden, mask.shape[1] - 1 - mask.int().flip(1).argmax(dim=1))


def _sum(hidden: Tensor, real: Tensor) -> Tensor:
    """Return the sum over the real tokens, (B, H), float32."""
    return hidden.float().masked_fill(~real.unsqueeze(-1), 0.0).sum(dim=1)


def _at(hidden: Tensor, positions: Tensor) -> Tensor:
    """Return the hidden states at one position of each row, (B, H), float32, for positions (B,)."""
    index = positions.view(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
    return hidden.gather(1, index).squeeze(1).float()


# By the names of sentence-transformers, see `mtl.model.layout.POOLING_MODES`.
POOLINGS: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "cls": cls_pool,
    "max": max_pool,
    "mean": mean_pool,
    "mean_sqrt_len_tokens": mean_sqrt_len_pool,
    "weightedmean": weighted_mean_pool,
    "lasttoken": last_token_pool,
}


def pool(name: str, hidden: Tensor, mask: Tensor) -> Tensor:
    """Pool by name.

    Args:
        name: A key of ``POOLINGS``, or several joined by ``+``, whose results are concatenated: ``cls+mean``.
        hidden: Hidden states, (B, S, H).
        mask: True (or not 0) at real tokens, (B, S).

    Returns:
        Embeddings, (B, k * H) for k names, float32.

    Raises:
        ValueError: No pooling has this name.
    """
    modes = name.split("+")
    if unknown := [mode for mode in modes if mode not in POOLINGS]:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, not {unknown[0]!r}")
    pooled = [POOLINGS[mode](hidden, mask) for mode in modes]
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=-1)


class Dense(nn.Module):
    """A linear layer and an activation on embeddings, as sentence-transformers' module of the same name.

    Args:
        spec: Its sizes and its activation.
    """

    def __init__(self, spec: DenseSpec) -> None:
        super().__init__()
        self.linear = nn.Linear(spec.in_features, spec.out_features, bias=spec.bias)
        self.activation = ACTIVATIONS[spec.activation]()

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return embeddings (B, out) of embeddings (B, in), in float32 also under autocast."""
        with torch.autocast(embeddings.device.type, enabled=False):
            result: Tensor = self.activation(self.linear(embeddings))
        return result
