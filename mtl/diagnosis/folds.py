"""Folds for cross-validation: stratified by class, and the rows of one text in one fold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray


def stratified_folds(
    labels: NDArray[np.int64], keys: NDArray[np.uint64], folds: int, random: Generator
) -> NDArray[np.int64]:
    """Return the fold of each row, int64 ``(N,)``.

    A text that stands twice would tell a head in training what its copy in the held-out fold is, so rows with the same
    key go together. Where texts do not repeat, the folds of a class differ by one row at most.

    Args:
        labels: Class ids ``(N,)``.
        keys: A number for each text ``(N,)``, see `mtl.data.table.Table.keys`.
        folds: How many folds.
        random: Decides which row goes where.
    """
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    strata = labels[first]
    of_group = np.empty(len(first), dtype=np.int64)
    for stratum in np.unique(strata):
        members = random.permutation(np.flatnonzero(strata == stratum))
        of_group[members] = (np.arange(len(members)) + random.integers(folds)) % folds
    return of_group[group]
