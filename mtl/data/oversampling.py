"""Oversampling: rows of rare classes come more than once in a pass over a task's training rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mtl.data.bucketing import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray


def oversampled_rows(labels: NDArray[np.int64], strength: float, *, task: str, seed: int) -> NDArray[np.int64]:
    """Return the row that stands in each slot of a pass: every row once at least, rows of rarer classes more often.

    A class of ``n_c`` rows gets slots in proportion to ``n_c ** (1 - strength)``, the largest one as many as it has
    rows: with 0 all classes as many as rows, with 1 all as many as the largest (Kang et al. 2020, equation 1, with
    ``q = 1 - strength``). The rows of a class come equally often, up to one: which come once more is drawn by the seed,
    the same in each pass. The rows keep their order, so that slots of the same number are the same rows.

    Args:
        labels: The class id of each row, int64, ``(N,)``.
        strength: From 0 to 1.
        task: The task, part of what seeds the draw.
        seed: Seeds the draw.

    Returns:
        Row numbers, ascending, int64, ``(M,)``, ``M >= N``.
    """
    counts = np.bincount(labels)
    slots = np.rint(counts.max(initial=0) ** strength * counts ** (1.0 - strength)).astype(np.int64)
    repeats = np.ones(len(labels), dtype=np.int64)
    for label in np.flatnonzero((slots > counts) & (counts > 0)):
        rows = np.flatnonzero(labels == label)
        each, more = divmod(int(slots[label]), len(rows))
        repeats[rows] = each
        repeats[generator(seed, "oversample", task, int(label)).permutation(rows)[:more]] += 1
    return np.repeat(np.arange(len(labels)), repeats)
