"""Stratified splits that depend on texts and seed only and keep equal texts together; oversampling of rare classes.

The order in which texts are taken is that of a hash of each text's key and the seed. So a split does not depend on the
order of the rows, on the versions of Python and NumPy, or on the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mtl.data.buckets import generator
from mtl.data.table import IntArray, KeyArray

if TYPE_CHECKING:
    from numpy.typing import NDArray


def oversampled_rows(labels: NDArray[np.int64], strength: float, *, task: str, seed: int) -> NDArray[np.int64]:
    """Return the row that stands in each slot of a pass: every row once at least, rows of rarer classes more often.

    A class of ``n_c`` rows gets slots in proportion to ``n_c ** (1 - strength)``, the largest one as many as it has
    rows: with 0 all classes as many as rows, with 1 all as many as the largest (Kang et al. 2020, equation 1, with
    ``q = 1 - strength``). The rows of a class come equally often, up to one: which come once more is drawn by task and
    seed, the same in each pass. The rows keep their order, so that slots of the same number are the same rows.

    The labels are class ids, int64, ``(N,)``; the row numbers are ascending, int64, ``(M,)``, ``M >= N``.
    """
    counts = np.bincount(labels)
    slots = np.rint(counts.max(initial=0) ** strength * counts ** (1.0 - strength)).astype(np.int64)
    repeats = np.ones(len(labels), dtype=np.int64)
    for label in np.flatnonzero((slots > counts) & (counts > 0)):
        rows = np.flatnonzero(labels == label)
        whole, more = divmod(int(slots[label]), len(rows))
        repeats[rows] = whole
        repeats[generator(seed, "oversample", task, int(label)).permutation(rows)[:more]] += 1
    return np.repeat(np.arange(len(labels)), repeats)


_GOLDEN = 0x9E3779B97F4A7C15
_TRAIN = 0


def stratified_split(keys: KeyArray, labels: IntArray, fractions: Sequence[float], seed: int) -> list[IntArray]:
    """Divide rows into parts that have about the same share of each label; the first part is for training.

    - Rows with the same key (texts that differ only in case and white space) go to the same part.
    - Each label has at least one row in the first part.
    - A label with as many distinct texts as there are parts has a row in each, unless its texts have other labels too.
    - Each label's share of a part is right to within one row, where these rules and repeated texts allow it.

    A part other than the first is empty only if there is no text to spare for it.

    Args:
        keys: The key of each row's text, uint64; shape ``(N,)``.
        labels: The class id of each row, int64; shape ``(N,)``.
        fractions: The share of each part, of two at least: all above 0, their sum 1.
        seed: Another seed gives another split.

    Returns:
        The row numbers of each part, ascending; together each row once.
    """
    if len(keys) == 0:
        return [np.empty(0, dtype=np.int64) for _ in fractions]
    groups = _Groups.of(keys, labels, seed)
    parts = _assigned(groups, fractions)
    _fill_empty(parts, groups, len(fractions))
    _cover_training(parts, groups)
    part_of_row = parts[groups.of_row]
    return [np.flatnonzero(part_of_row == part) for part in range(len(fractions))]


@dataclass(frozen=True, slots=True)
class _Groups:
    """The rows by text, ``G`` groups in the order in which the seed takes them; all arrays int64."""

    of_row: IntArray  # the group of each row; shape ``(N,)``
    sizes: IntArray  # the rows of each group; shape ``(G,)``
    strata: IntArray  # the label that each group counts for: the rarest of its labels; shape ``(G,)``
    pair_groups: IntArray  # group of each distinct pair of group and label; shape ``(P,)``
    pair_labels: IntArray  # label of that pair; shape ``(P,)``

    @classmethod
    def of(cls, keys: KeyArray, labels: IntArray, seed: int) -> _Groups:
        distinct, of_row, sizes = np.unique(keys, return_inverse=True, return_counts=True)
        scrambled_seed = _mixed(np.array([seed % 2**64], dtype=np.uint64))  # so neighbouring seeds are unrelated
        order = np.argsort(_mixed(distinct ^ scrambled_seed))
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        of_row = rank[of_row]
        count = int(labels.max()) + 1
        pair_groups, pair_labels = np.divmod(np.unique(of_row * count + labels), count)
        support = np.bincount(pair_labels, minlength=count)
        by_rarity = np.lexsort((pair_labels, support[pair_labels], pair_groups))
        firsts = np.unique(pair_groups[by_rarity], return_index=True)[1]
        return cls(of_row, sizes[order], pair_labels[by_rarity][firsts], pair_groups, pair_labels)


def _mixed(values: KeyArray) -> KeyArray:
    """Return a one-to-one scramble of 64-bit numbers: the output function of SplitMix64 (Steele et al., 2014)."""
    values = values + np.uint64(_GOLDEN)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _assigned(groups: _Groups, fractions: Sequence[float]) -> IntArray:
    """Return the part of each group, label by label; what rounding leaves over is carried to the next label."""
    parts = np.full(len(groups.sizes), _TRAIN, dtype=np.int64)
    carry = np.zeros(len(fractions) - 1)
    by_label = np.argsort(groups.strata, kind="stable")
    bounds = np.flatnonzero(np.diff(groups.strata[by_label])) + 1
    for members in np.split(by_label, bounds):
        sizes = groups.sizes[members]
        targets = sizes.sum() * np.asarray(fractions[1:])
        order = np.argsort(sizes > max(1.0, targets.min()), kind="stable")  # texts too large to hold out come last
        counts, taken = _counts_to_hold_out(sizes[order], targets + carry)
        carry = np.clip(targets + carry - taken, -0.5, 0.5)
        held_out = members[order][: sum(counts)]
        parts[held_out] = np.repeat(np.arange(1, len(fractions)), counts)
    return parts


def _counts_to_hold_out(sizes: IntArray, targets: npt.NDArray[np.float64]) -> tuple[list[int], npt.NDArray[np.float64]]:
    """Return how many of a label's groups go to each part after the first, and the rows that they have.

    At least one group is left for the first part; each part gets one if there are enough for all. ``sizes`` are the
    rows of each group ``(G,)`` in the order in which they are taken, ``targets`` those each part should get ``(K,)``.
    """
    ends = np.concatenate(([0], np.cumsum(sizes)))
    least = 1 if len(sizes) > len(targets) else 0
    counts: list[int] = []
    for place, target in enumerate(targets):
        start = sum(counts)
        most = len(sizes) - start - 1 - least * (len(targets) - place - 1)
        nearest = _nearest(ends[start:] - ends[start], float(target))
        counts.append(min(max(nearest, least), most))
    stops = np.cumsum(counts)
    return counts, np.diff(ends[np.concatenate(([0], stops))]).astype(np.float64)


def _nearest(totals: IntArray, target: float) -> int:
    """Return the place of the ascending total that is nearest to the target, the lower one of two as near."""
    above = int(np.searchsorted(totals, target))
    if above == 0 or above == len(totals):
        return max(0, above - 1)
    return above if totals[above] - target < target - totals[above - 1] else above - 1


def _fill_empty(parts: IntArray, groups: _Groups, count: int) -> None:
    """Give each part that got nothing the smallest text that another part can spare, if there is one."""
    for part in range(1, count):
        if (parts == part).any():
            continue
        candidates = np.flatnonzero(_spare(parts, groups))
        if candidates.size:
            parts[candidates[groups.sizes[candidates].argmin()]] = part


def _spare(parts: IntArray, groups: _Groups) -> npt.NDArray[np.bool_]:
    """Return for each group whether its part can spare it: training first, if a label has more than one there."""
    in_training = parts == _TRAIN
    per_label = np.bincount(groups.strata[in_training])
    per_part = np.bincount(parts)
    per_part[_TRAIN] = 0
    spare: npt.NDArray[np.bool_] = (parts == per_part.argmax()) & (per_part.max() > 1)
    if per_label.max() > 1:
        spare = in_training & (groups.strata == per_label.argmax())
    return spare


def _cover_training(parts: IntArray, groups: _Groups) -> None:
    """Take back a text of each label that training lacks: one whose texts all have other, rarer labels too."""
    covered = groups.pair_labels[parts[groups.pair_groups] == _TRAIN]
    for label in np.setdiff1d(groups.pair_labels, covered):
        parts[groups.pair_groups[groups.pair_labels == label][0]] = _TRAIN
