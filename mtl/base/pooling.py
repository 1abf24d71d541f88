"""The poolings: from the hidden states of a sentence's tokens to one embedding. A new one is added only here.

Configurations accept the names in `POOLINGS`, `mtl.model.sentence_embedding.pool` computes them, and saved models are
read and written with them. torch is not imported, so that a configuration can be checked without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average the hidden states of the real tokens (Reimers & Gurevych 2019, https://arxiv.org/abs/1908.10084).

    The sum runs in float32 whatever the dtype of ``hidden``: in bfloat16 it would lose a digit from 256 tokens on.
    Values at padded positions, even NaN, are ignored; a row without any token gives zeros.

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
    2); see `mean_pool`.
    """
    real = mask.bool()
    weights = real.cumsum(dim=1) * real  # (B, S)
    weighted = hidden.float() * weights.unsqueeze(-1)
    return _sum(weighted, real) / weights.sum(dim=1, keepdim=True).clamp(min=1)


def max_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Take the largest value of each dimension over the real tokens; see `mean_pool`."""
    real = mask.bool()
    largest = hidden.float().masked_fill(~real.unsqueeze(-1), float("-inf")).max(dim=1).values  # (B, H)
    return largest.masked_fill(~real.any(dim=1, keepdim=True), 0.0)


def cls_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Take the hidden state of each row's first real token, not at position 0 if padding is on the left."""
    return _at(hidden, mask.int().argmax(dim=1))


def last_token_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Take the hidden state of each row's last real token, on whichever side the padding is."""
    return _at(hidden, mask.shape[1] - 1 - mask.int().flip(1).argmax(dim=1))


def _sum(hidden: Tensor, real: Tensor) -> Tensor:
    """Return the sum over the real tokens, (B, H), float32."""
    return hidden.float().masked_fill(~real.unsqueeze(-1), 0.0).sum(dim=1)


def _at(hidden: Tensor, positions: Tensor) -> Tensor:
    """Return the hidden states at one position of each row, (B, H), float32, for positions (B,)."""
    index = positions.view(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
    return hidden.gather(1, index).squeeze(1).float()


class Pooling(NamedTuple):
    """A pooling.

    Attributes:
        function: Takes hidden states (B, S, H) and their mask (B, S), returns embeddings (B, H), float32.
        flag: Its key in the ``1_Pooling/config.json`` of sentence-transformers up to 5, one flag a mode.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    flag: str


POOLINGS: Final = {
    "cls": Pooling(cls_pool, "pooling_mode_cls_token"),
    "max": Pooling(max_pool, "pooling_mode_max_tokens"),
    "mean": Pooling(mean_pool, "pooling_mode_mean_tokens"),
    "mean_sqrt_len_tokens": Pooling(mean_sqrt_len_pool, "pooling_mode_mean_sqrt_len_tokens"),
    "weightedmean": Pooling(weighted_mean_pool, "pooling_mode_weightedmean_tokens"),
    "lasttoken": Pooling(last_token_pool, "pooling_mode_lasttoken"),
}
"""By the names of sentence-transformers, in the order in which it concatenates those that are chosen by flags."""
