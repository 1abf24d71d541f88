"""Packing: the real tokens of a batch one after the other, so that padding costs nothing outside attention.

Notation: B rows, S tokens of the longest row, T real tokens of the batch, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

LEAST_SAVING = 0.05
"""Share of the padded tokens that two groups must save to be worth the second run through the layers."""


def length_groups(lengths: Tensor) -> list[tuple[Tensor, int]] | None:
    """Divide rows of given lengths, ``(B,)``, into a longer and a shorter group that have the fewest padded tokens.

    Returns:
        For each group its rows, long ones first, and its longest; None where that saves less than `LEAST_SAVING`.
    """
    if len(lengths) < 2:
        return None
    order = torch.argsort(lengths, descending=True, stable=True)
    sorted_lengths = lengths[order]
    longest = int(sorted_lengths[0])
    first = torch.arange(1, len(lengths))  # rows of the longer group
    tokens = first * longest + (len(lengths) - first) * sorted_lengths[1:]
    fewest, at = tokens.min(dim=0)
    if int(fewest) > (1 - LEAST_SAVING) * len(lengths) * longest:
        return None
    cut = int(at) + 1
    return [(order[:cut], longest), (order[cut:], max(1, int(sorted_lengths[cut])))]


def equal_groups(lengths: Tensor, most: int) -> list[tuple[Tensor, int]] | None:
    """Divide rows into groups of one length each, which need no padding and no mask.

    Returns:
        For each group its rows, long ones first, and their length; None where there would be more than ``most`` groups.
    """
    distinct = sorted(set(lengths.tolist()), reverse=True)
    if not 0 < len(distinct) <= most:
        return None
    return [((lengths == length).nonzero().squeeze(1), length) for length in distinct]


_LEAST_STEP = 8


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows of similar length, which attend in one padded block."""

    tokens: slice  # where their tokens stand among the packed ones
    rows: int  # the number of rows, ``B_g``
    longest: int  # tokens of the longest of them, ``S_g``
    # For each place of the padded block the token that stands there, within ``tokens``, int64, ``(B_g * S_g,)``; any of
    # them at padding. Nothing where there is no padding.
    index: Tensor | None
    inverse: Tensor  # for each token its place in the padded block, int64, ``(T_g,)``
    real: Tensor  # true at real tokens, ``(B_g, S_g)``

    def pad(self, packed: Tensor) -> Tensor:
        """Return the padded block ``(B_g * S_g, C)`` of packed tokens ``(T_g, C)``; padding holds any real token."""
        if self.index is None:
            return packed
        padded: Tensor = _Pad.apply(packed, self.index, self.inverse)  # type: ignore[no-untyped-call]
        return padded

    def unpad(self, padded: Tensor) -> Tensor:
        """Return the packed tokens ``(T_g, C)`` of a padded block ``(B_g * S_g, C)``."""
        if self.index is None:
            return padded
        real = self.real.view(-1, 1)
        packed: Tensor = _Unpad.apply(padded, self.index, self.inverse, real)  # type: ignore[no-untyped-call]
        return packed


@dataclass(frozen=True, slots=True)
class Packing:
    """The order of a batch's real tokens: row after row, long rows first, in groups of similar length.

    Behind them stand copies of the first one, which nothing attends to or looks at: `filled` says how many and why.
    """

    places: Tensor  # where each packed token stands in the flat batch, int64, ``(T,)``
    groups: list[RowGroup]  # the rows, in the packed order
    copies: int  # how many copies stand behind the packed tokens, F

    @classmethod
    def of(cls, mask: Tensor, equal: int = 1) -> Self:
        """Return the packing of a batch.

        Args:
            mask: True at real tokens, ``(B, S)``, at least one in each row and none with padding in between; padding
                may stand on either side.
            equal: Up to so many different lengths each is a group of its own, without padding.
        """
        lengths = mask.sum(dim=1)
        rows = torch.arange(len(lengths))
        cut = equal_groups(lengths, equal) or length_groups(lengths)
        cut = cut or [(rows, int(lengths.max()) if len(lengths) else 0)]
        groups, places, start = [], [], 0
        for chosen, longest in cut:
            group = _group(lengths[chosen], longest, start)
            groups.append(group)
            start = group.tokens.stop
            at = mask[chosen].nonzero()
            places.append(chosen[at[:, 0]] * mask.shape[1] + at[:, 1])
        return cls(torch.cat(places), groups, filled(start) - start)

    @property
    def tokens(self) -> int:
        """The number of real tokens, T."""
        return len(self.places)

    def pack(self, hidden: Tensor) -> Tensor:
        """Return the real tokens and the copies behind them, ``(T + F, H)``, of hidden states ``(B, S, H)``."""
        places = torch.cat([self.places, self.places[:1].expand(self.copies)])
        return hidden.flatten(0, 1).index_select(0, places)

    def unpack(self, packed: Tensor, rows: int, longest: int) -> Tensor:
        """Return hidden states ``(B, S, H)`` of packed tokens ``(T + F, H)``, with zeros at padding."""
        padded = packed.new_zeros(rows * longest, packed.shape[-1])
        return padded.index_copy(0, self.places, packed[: self.tokens]).view(rows, longest, -1)


def filled(tokens: int) -> int:
    """Return how many rows stand for so many packed tokens: up to a thirty-second more, of few up to 7 rows.

    oneDNN makes a kernel for each new shape, which takes about a millisecond, and a step of training has a dozen
    products over its tokens. With at most 32 different numbers between a power of two and the next one most are there.
    """
    step = max(_LEAST_STEP, 1 << max(0, tokens.bit_length() - 6))
    return -(-tokens // step) * step


def _group(lengths: Tensor, longest: int, start: int) -> RowGroup:
    real = torch.arange(longest) < lengths[:, None]  # (B_g, S_g)
    count = int(lengths.sum())
    padded = count < real.numel()
    return RowGroup(
        tokens=slice(start, start + count),
        rows=len(lengths),
        longest=longest,
        index=(real.flatten().cumsum(0) - 1).clamp(min=0) if padded else None,
        inverse=real.flatten().nonzero().squeeze(1),
        real=real,
    )


class _Pad(torch.autograd.Function):
    """Gathers; so does its backward pass, since each token stands at one real place and padding gets no gradient."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return packed.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return gradient.index_select(0, inverse), None, None


class _Unpad(torch.autograd.Function):
    """The reverse of `_Pad`; the gradient at padding is 0."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, index: Tensor, inverse: Tensor, real: Tensor) -> Tensor:
        ctx.save_for_backward(index, real)
        return padded.index_select(0, inverse)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        index, real = ctx.saved_tensors
        return gradient.index_select(0, index).mul_(real), None, None, None
