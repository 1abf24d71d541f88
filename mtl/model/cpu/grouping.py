"""Groups of rows by length: on a CPU less padding is worth more than one large batch."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_SAVING = 0.05
"""Share of the padded tokens that two groups must save to be worth the second run through the layers."""


def length_groups(lengths: Tensor) -> list[tuple[Tensor, int]] | None:
    """Divide rows into a longer and a shorter group so that together they have the fewest padded tokens.

    Args:
        lengths: Tokens of each row, ``(B,)``, on the CPU.

    Returns:
        For each group its rows, long ones first, and its longest; nothing where that saves less than `LEAST_SAVING`.
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

    Args:
        lengths: Tokens of each row, ``(B,)``, on the CPU.
        most: The most groups.

    Returns:
        For each group its rows, long ones first, and their length; nothing where there are more groups.
    """
    found = sorted(set(lengths.tolist()), reverse=True)
    if not 0 < len(found) <= most:
        return None
    return [((lengths == length).nonzero().squeeze(1), length) for length in found]
