"""Rows of the cache, mapped from its files and copied out a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mtl.activations.layout import Layout
from mtl.activations.segments import map_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAPS: Final = 32
"""The most files that `Rows` map at a time: each takes a file descriptor, of which a process often has 1024, and there
are `Rows` for each task and split."""


class Rows:
    """``N`` rows in the order that they were asked for. Nothing is in memory but 16 bytes a row.

    They stay valid after the store is closed, and their source is not evicted as long as they are there. Pickled, for a
    worker process, they are opened again there; the process that they come from must keep its own.

    Args:
        files: Files of values.
        places: For each row the number of its file, its first vector there and its vectors: fields ``segment``,
            ``start`` and ``length``, ``(N,)``.
        layout: How the rows look.
        lease: Whatever keeps the files in place.
        checksum: Of the rows, where it is known.
    """

    def __init__(
        self,
        files: Sequence[Path],
        places: NDArray[Any],
        layout: Layout,
        lease: object = None,
        checksum: str = "",
    ) -> None:
        self.layout = layout
        self.checksum = checksum
        self._files = tuple(files)
        self._places = places
        self._lease = lease
        self._mapped = lru_cache(maxsize=MAPS)(_Mapping(self._files, layout))

    def __len__(self) -> int:
        return len(self._places)

    def __reduce__(self) -> tuple[type[Rows], tuple[Sequence[Path], NDArray[Any], Layout]]:
        return type(self), (self._files, self._places, self.layout)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The vectors of each row, int64, ``(N,)``."""
        return self._places["length"].astype(np.int64)

    def gather(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Copy rows that are one vector each.

        Args:
            indices: Which rows, ``(B,)``; any order, and a row may come more than once.

        Returns:
            ``(B, H)``, in the dtype of the layout (bfloat16: raw bits as uint16).

        Raises:
            IndexError: There is no such row.
            ValueError: The rows are of variable length.
        """
        if self.layout.ragged:
            raise ValueError("these rows are of variable length: use gather_ragged")
        places = self._places[np.asarray(indices, np.int64)]
        found = np.empty((len(places), self.layout.dim), self.layout.numpy)
        for values, which in self._by_file(places):
            found[which] = values[places["start"][which]]
        return found

    def gather_ragged(
        self, indices: Sequence[int] | NDArray[np.integer[Any]]
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Copy rows of any length, one after the other.

        Args:
            indices: Which rows, ``(B,)``; any order, and a row may come more than once.

        Returns:
            The vectors, ``(sum(lengths), H)``, in the dtype of the layout (bfloat16: raw bits as uint16), and how many
            of them each row has, int64, ``(B,)``.

        Raises:
            IndexError: There is no such row.
        """
        places = self._places[np.asarray(indices, np.int64)]
        lengths = places["length"].astype(np.int64)
        ends = np.cumsum(lengths)
        found = np.empty((int(lengths.sum()), self.layout.dim), self.layout.numpy)
        for values, which in self._by_file(places):
            for row in which.tolist():
                start, length, end = int(places["start"][row]), int(lengths[row]), int(ends[row])
                found[end - length : end] = values[start : start + length]
        return found, lengths

    def _by_file(self, places: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """Yield the mapped values of each file, and which of the places are in it."""
        order = np.argsort(places["segment"], kind="stable")
        files, starts = np.unique(places["segment"][order], return_index=True)
        for file, which in zip(files.tolist(), np.split(order, starts[1:]), strict=False):  # no files: one empty part
            yield self._mapped(file), which


class _Mapping:
    """Maps a file by its number; knows nothing of `Rows`, so that their cache of maps holds no circle."""

    def __init__(self, files: Sequence[Path], layout: Layout) -> None:
        self._files = files
        self._layout = layout

    def __call__(self, number: int) -> NDArray[Any]:
        return map_values(self._files[number], self._layout)
