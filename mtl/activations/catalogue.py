"""The segments that a source has on disk, and the rows that wait in memory until they fill the next one."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mtl.activations.layout import Block, KeyTable, Layout, first_of_each, joined
from mtl.activations.segments import INDEX, DamagedError, Rows, Segment, read_index, remove_segment, verify

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


class Catalogue:
    """The segments in the folder of a source, and the places of its rows."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self._folder = folder
        self._layout = layout
        self._table = KeyTable()
        self._segments: dict[int, Segment] = {}
        self._numbers: dict[Path, int] = {}
        self._unverified: set[int] = set()
        self._bad: set[Path] = set()
        self._next = 0

    def refresh(self) -> None:
        """Take in segments that other processes have written, and forget those that are gone."""
        there = set(self._folder.glob(f"*{INDEX}"))
        for gone in self._numbers.keys() - there:
            self._forget(self._numbers[gone])
        for index in sorted(there - self._numbers.keys() - self._bad):
            try:
                self._unverified.add(self.add(*read_index(index, self._layout)))
            except FileNotFoundError:  # another process has removed it a moment ago
                continue
            except (DamagedError, OSError) as error:
                self._condemn(index, error)

    def add(self, segment: Segment, keys: NDArray[np.bytes_], lengths: NDArray[np.int64]) -> int:
        """Add a segment that is whole for certain, with the keys and lengths of its rows, and return its number."""
        number = self._next
        self._next += 1
        self._segments[number] = segment
        self._numbers[segment.index] = number
        self._table.add(number, keys, lengths)
        return number

    def find(self, keys: NDArray[np.bytes_]) -> tuple[NDArray[np.bool_], NDArray[Any]]:
        """Return which rows are there, and their places, see `KeyTable.find`; their segments have been checked."""
        while True:
            there, places = self._table.find(keys)
            doubtful = self._unverified.intersection(np.unique(places["segment"]).tolist())
            if not doubtful:
                return there, places
            for number in sorted(doubtful):
                self._check(number)

    def rows(self, places: NDArray[Any], lease: object) -> Rows:
        """Return the rows at the places, with a checksum from those of their segments: nothing is read again.

        Equal checksums mean equal rows. The same rows in other segments, written in other portions, have another one.
        """
        numbers, which = np.unique(places["segment"], return_inverse=True)
        segments = [self._segments[number] for number in numbers.tolist()]
        checksums = np.array([segment.checksum for segment in segments], np.uint32)[which]
        content = (checksums, places["start"].astype(np.int64), places["length"].astype(np.int64))
        checksum = hashlib.sha256(b"".join(part.tobytes() for part in content)).hexdigest()
        renumbered = places.copy()
        renumbered["segment"] = which
        return Rows([segment.values for segment in segments], renumbered, self._layout, lease, checksum)

    def _check(self, number: int) -> None:
        segment = self._segments[number]
        try:
            verify(segment)
        except (DamagedError, OSError) as error:
            self._forget(number)
            if segment.index.exists():  # else another process has found the same
                self._condemn(segment.index, error)
        else:
            self._unverified.remove(number)

    def _forget(self, number: int) -> None:
        self._table.remove(number)
        self._unverified.discard(number)
        del self._numbers[self._segments.pop(number).index]

    def _condemn(self, index: Path, error: Exception) -> None:
        """Remove a segment that cannot be used; rows of files that merely cannot be read now are left alone."""
        self._bad.add(index)
        if not isinstance(error, DamagedError):
            log.warning("%s: cannot be read (%s); its rows are computed again", index, error)
            return
        try:
            remove_segment(index)
        except OSError as failure:
            log.warning("%s: damaged (%s) and cannot be removed (%s)", index, error, failure.strerror or failure)
        else:
            log.warning("%s: damaged (%s); removed, its rows are computed again", index, error)


SEGMENT_BYTES: Final = 64 * 2**20
SEGMENT_ROWS: Final = 2**18
PATIENCE_SECONDS: Final = 30.0
"""Rows wait at most about so long: that much work a kill can cost."""


class Pending:
    """Collects rows for one segment.

    Rows that came together stay together: they were computed in one batch. After a kill the batches that are left are
    then those of an unbroken run, and the last bits of their results are, too.
    """

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._since = 0.0

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def add(self, rows: Block) -> None:
        """Copy rows."""
        if not self._blocks:
            self._since = time.monotonic()
        self._blocks.append(joined([rows]))

    @property
    def is_due(self) -> bool:
        """Whether the rows fill a segment, or have waited long enough."""
        size = sum(block.values.nbytes for block in self._blocks)
        count = sum(map(len, self._blocks))
        waited = time.monotonic() - self._since
        return size >= SEGMENT_BYTES or count >= SEGMENT_ROWS or waited >= PATIENCE_SECONDS

    def rows(self) -> Block:
        """Return the rows, of several with the same key the first."""
        rows = joined(self._blocks)
        first = np.zeros(len(rows), bool)
        first[first_of_each(rows.keys)] = True
        return rows.only(first)
