"""What a source has on disk: its segments, each checked once before any of its rows is called there."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl.activations.keys import KeyTable
from mtl.activations.layout import Layout
from mtl.activations.segments import INDEX, DamagedError, Segment, read_index, remove_segment, verify

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


class Catalogue:
    """The segments of a source and the places of its rows.

    Args:
        folder: The folder of the source.
        layout: How its rows look.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self._folder = folder
        self._layout = layout
        self._table = KeyTable()
        self._segments: dict[int, Segment] = {}
        self._numbers: dict[Path, int] = {}
        self._unverified: set[int] = set()
        self._bad: set[Path] = set()
        self._next = 0

    def __len__(self) -> int:
        return len(self._table)

    def refresh(self) -> None:
        """Take in segments that other processes have written, and forget those that are gone."""
        there = set(self._folder.glob(f"*{INDEX}"))
        for gone in self._numbers.keys() - there:
            self._forget(self._numbers[gone])
        for index in sorted(there - self._numbers.keys() - self._bad):
            self._take_in(index)

    def add(self, segment: Segment, keys: NDArray[np.bytes_], lengths: NDArray[np.int64]) -> int:
        """Add a segment and return its number.

        Args:
            segment: The segment, whole for certain.
            keys: The keys of its rows, ``S16`` ``(N,)``.
            lengths: The vectors of each row, int64, ``(N,)``.
        """
        number = self._next
        self._next += 1
        self._segments[number] = segment
        self._numbers[segment.index] = number
        self._table.add(number, keys, lengths)
        return number

    def find(self, keys: NDArray[np.bytes_]) -> tuple[NDArray[np.bool_], NDArray[Any]]:
        """Return which rows are there, and the places of those; the segments that they are in have been checked.

        Args:
            keys: ``S16``, ``(N,)``.

        Returns:
            bool ``(N,)``; and for each that is there, in their order, the fields ``segment``, ``start``, ``length``.
        """
        while True:
            there, places = self._table.find(keys)
            doubtful = self._unverified.intersection(np.unique(places["segment"]).tolist())
            if not doubtful:
                return there, places
            for number in sorted(doubtful):
                self._check(number)

    def files(self, places: NDArray[Any]) -> tuple[list[Path], NDArray[Any]]:
        """Return the files of values that the places are in, and the places with the numbers of these files."""
        numbers, which = np.unique(places["segment"], return_inverse=True)
        renumbered = places.copy()
        renumbered["segment"] = which
        return [self._segments[number].values for number in numbers.tolist()], renumbered

    def checksum(self, places: NDArray[Any]) -> str:
        """Return a checksum of the rows at the places, from those of their segments: nothing is read again.

        Equal checksums mean equal rows. The same rows in other segments, written in other portions, have another one.
        """
        numbers, which = np.unique(places["segment"], return_inverse=True)
        segments = np.array([self._segments[number].checksum for number in numbers.tolist()], np.uint32)[which]
        content = (segments, places["start"].astype(np.int64), places["length"].astype(np.int64))
        return hashlib.sha256(b"".join(part.tobytes() for part in content)).hexdigest()

    def _take_in(self, index: Path) -> None:
        try:
            segment, keys, lengths = read_index(index, self._layout)
        except FileNotFoundError:  # another process has removed it a moment ago
            return
        except (DamagedError, OSError) as error:
            self._condemn(index, error)
        else:
            self._unverified.add(self.add(segment, keys, lengths))

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
