"""Rows that wait in memory until they fill a segment."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import numpy as np

from mtl.activations.keys import first_of_each
from mtl.activations.layout import Block

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEGMENT_BYTES: Final = 64 * 2**20
SEGMENT_ROWS: Final = 2**18
PATIENCE_SECONDS: Final = 30.0
"""Rows wait at most about so long: that much work a kill can cost."""


class Pending:
    """Collects rows for one segment."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._since = 0.0

    def __bool__(self) -> bool:
        return bool(self._blocks)

    @property
    def is_due(self) -> bool:
        """Whether the rows have waited long enough to be written even if they fill no segment."""
        return bool(self._blocks) and time.monotonic() - self._since >= PATIENCE_SECONDS

    @property
    def keys(self) -> NDArray[np.bytes_]:
        """The keys of the rows, ``S16``, ``(N,)``."""
        return np.concatenate([block.keys for block in self._blocks])

    def add(self, rows: Block) -> Block:
        """Copy as many of the rows as go into the segment, and return the rest."""
        fitting = self._fitting(rows)
        if fitting:
            self._since = self._since if self._blocks else time.monotonic()
            self._blocks.append(rows.cut(0, fitting).copy())
        return rows.cut(fitting, len(rows))

    def only(self, wanted: NDArray[np.bool_]) -> list[Block]:
        """Return the rows where ``wanted``, bool ``(N,)``, is true, of several with the same key the first."""
        first = np.zeros(len(wanted), bool)
        first[first_of_each(self.keys)] = True
        parts = np.split(wanted & first, np.cumsum([len(block) for block in self._blocks])[:-1])
        return [block.only(part) for block, part in zip(self._blocks, parts, strict=True) if part.any()]

    def clear(self) -> None:
        """Forget the rows."""
        self._blocks = []

    def _fitting(self, rows: Block) -> int:
        """Return how many of the rows still go in; into a new segment at least one, however large.

        Rows that came together stay together unless they fill a segment: they were computed in one batch. After a kill
        the batches that are left are then those of an unbroken run, and the last bits of their results are, too.
        """
        size = sum(block.values.nbytes for block in self._blocks)
        count = sum(map(len, self._blocks))
        fitting = min(int(np.searchsorted(rows.ends, SEGMENT_BYTES - size, side="right")), SEGMENT_ROWS - count)
        if self._blocks:
            return len(rows) if fitting >= len(rows) else 0
        return max(fitting, 1)
