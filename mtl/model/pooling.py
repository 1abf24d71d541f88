"""Pooling: one embedding of a sentence from the hidden states of its tokens, as pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor


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
    total = hidden.float().masked_fill(~real.unsqueeze(-1), 0.0).sum(dim=1)  # (B, H)
    return total / real.sum(dim=1, keepdim=True).clamp(min=1)


def cls_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Take the hidden state of each row's first real token, which padding on the left moves away from position 0.

    Args:
        hidden: Hidden states, (B, S, H).
        mask: True (or not 0) at real tokens, (B, S).

    Returns:
        Embeddings, (B, H), float32.
    """
    first = mask.int().argmax(dim=1)  # (B,)
    index = first.view(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
    return hidden.gather(1, index).squeeze(1).float()


POOLINGS: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {"mean": mean_pool, "cls": cls_pool}


def pool(name: str, hidden: Tensor, mask: Tensor) -> Tensor:
    """Pool by name.

    Args:
        name: A key of ``POOLINGS``: "mean" or "cls".
        hidden: Hidden states, (B, S, H).
        mask: True (or not 0) at real tokens, (B, S).

    Returns:
        Embeddings, (B, H), float32.

    Raises:
        ValueError: No pooling has this name.
    """
    if name not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, not {name!r}")
    return POOLINGS[name](hidden, mask)
