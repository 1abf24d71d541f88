"""Validated rows on disk: an Arrow file that is memory-mapped, and the choice of rows that a split takes from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from datasets import Dataset

IntArray = npt.NDArray[np.int64]
KeyArray = npt.NDArray[np.uint64]

_ROWS_AT_ONCE = 4096


class Column(Sequence[str]):
    """The values of one text column: read from the memory map when asked for, never held as a whole.

    Args:
        values: A `pyarrow.ChunkedArray` of strings.
        indices: The rows to take from it, in this order; ``None`` for all. Shape ``(N,)``.
    """

    def __init__(self, values: Any, indices: IntArray | None) -> None:
        self._values = values
        self._indices = indices

    def __len__(self) -> int:
        return len(self._values) if self._indices is None else len(self._indices)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return self._slice(range(*index.indices(len(self))))
        place = range(len(self))[index]
        value: str = self._values[place if self._indices is None else int(self._indices[place])].as_py()
        return value

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _ROWS_AT_ONCE):
            yield from self[start : start + _ROWS_AT_ONCE]

    def _slice(self, places: range) -> list[str]:
        if self._indices is None and places.step == 1:
            values: list[str] = self._values.slice(places.start, len(places)).to_pylist()
            return values
        rows = places if self._indices is None else self._indices[places.start : places.stop : places.step].tolist()
        return [self._values[row].as_py() for row in rows]


class Table:
    """Rows of one data file, with the line of each, over a memory-mapped `pyarrow.Table`.

    Args:
        path: The data file that the rows were read from.
        rows: A `pyarrow.Table` of all rows of that file, columns ``text``, ``line`` and ``key``.
        indices: The rows that belong to this table, in this order; ``None`` for all. Shape ``(N,)``.
    """

    def __init__(self, path: Path, rows: Any, indices: IntArray | None = None) -> None:
        self.path = path
        self._rows = rows
        self._indices = indices

    def __len__(self) -> int:
        return len(self._rows) if self._indices is None else len(self._indices)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, rows={len(self)})"

    @property
    def dataset(self) -> Dataset:
        """The rows as a `datasets.Dataset`, mapped as here."""
        from datasets import Dataset  # half a second to import, and a run does without
        from datasets.table import InMemoryTable  # holds any table as it is

        whole = Dataset(InMemoryTable(self._rows))
        return whole if self._indices is None else whole.select(self._indices)

    @property
    def texts(self) -> Column:
        """The sentences, exactly as in the file."""
        return Column(self.column("text"), self._indices)

    @property
    def lines(self) -> IntArray:
        """The line of the file in which each row starts (of a Parquet file: the row), from 1; shape ``(N,)``."""
        lines: IntArray = self._chosen(self.column("line").to_numpy())
        return lines

    @property
    def keys(self) -> KeyArray:
        """A number per row, the same for texts that differ only in case and white space; shape ``(N,)``."""
        keys: KeyArray = self._chosen(self.column("key").to_numpy())
        return keys

    def source(self, index: int) -> str:
        """Return where row ``index`` comes from: ``reviews.csv:17``."""
        place = range(len(self))[index]
        row = place if self._indices is None else int(self._indices[place])
        return f"{self.path.name}:{self.column('line')[row].as_py()}"

    def sources(self, indices: npt.ArrayLike | None = None) -> list[str]:
        """Return where the given rows (all, if ``None``) come from, each as ``reviews.csv:17``."""
        lines = self.lines if indices is None else self.lines[as_indices(indices, len(self))]
        return [f"{self.path.name}:{line}" for line in lines.tolist()]

    def select(self, indices: npt.ArrayLike) -> Self:
        """Return the table of the given rows, in the given order; no text is copied.

        Args:
            indices: Row numbers of this table, or a boolean per row.

        Raises:
            IndexError: A row number is not in ``[0, len(self))``.
        """
        chosen = as_indices(indices, len(self))
        return type(self)(self.path, self._rows, chosen if self._indices is None else self._indices[chosen])

    def column(self, name: str) -> Any:
        """Return a column of the whole file as a `pyarrow.ChunkedArray`, whatever rows this table has."""
        return self._rows.column(name)

    def _chosen(self, values: Any) -> Any:
        return values if self._indices is None else values[self._indices]


def as_indices(indices: npt.ArrayLike, length: int) -> IntArray:
    """Return row numbers as int64, from numbers or from a boolean per row.

    Args:
        indices: What to convert; shape ``(M,)``, or ``(length,)`` if boolean.
        length: How many rows there are to choose from.

    Raises:
        IndexError: A number is not in ``[0, length)``, or there is not one boolean per row.
    """
    array = np.asarray(indices)
    if array.dtype == np.bool_:
        if array.shape != (length,):
            raise IndexError(f"a boolean array of shape {array.shape} for {length} rows")
        return np.flatnonzero(array)
    rows = array.astype(np.int64, casting="same_kind") if array.size else np.empty(0, dtype=np.int64)
    outside = rows[(rows < 0) | (rows >= length)]
    if outside.size:
        raise IndexError(f"row {outside[0]} of {length} rows (0 to {length - 1})")
    return rows
