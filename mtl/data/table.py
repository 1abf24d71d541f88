"""Validated rows in Arrow files that are memory-mapped, and the cache of these files.

A cache file is an Arrow IPC stream followed by its SHA-256, one for each data file and choice of columns, so that it is
either whole or not used. Any of them may be deleted at any time: the data file is then read again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mtl.base.errors import DataError, Problem
from mtl.base.files import cache_root, replacing
from mtl.data.problems import Columns
from mtl.data.row_checks import ValidRow, text_key

SCHEMA = pa.schema([("text", pa.string()), ("label", pa.string()), ("line", pa.int64()), ("key", pa.uint64())])
EXTRA = "extra:"
"""How the names of extra columns begin."""

_VERSION = 2  # raise it when the checks, the schema or the keys change: older cache files are then not found
_BLOCK_BYTES = 1 << 20
_DIGEST_BYTES = hashlib.sha256().digest_size


def default_folder() -> Path:
    """Return the folder of the cache files."""
    return cache_root() / "examples"


def cache_name(content: Sequence[str], columns: Columns) -> str:
    """Return the name of the cache file of rows, after what tells their content from others, and the columns."""
    chosen = [columns.by_role["text"], columns.by_role.get("label"), columns.label_optional, *columns.extra]
    identity = json.dumps([_VERSION, *content, *chosen])
    return f"{hashlib.sha256(identity.encode()).hexdigest()}.arrow"


def checksum(batches: Iterable[pa.RecordBatch]) -> str:
    """Return the SHA-256 of the values of record batches; it depends on how the rows are divided into batches."""
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(str(batch.schema.names).encode())
        digest.update(batch.serialize())
    return digest.hexdigest()


def schema(extra: Sequence[str]) -> Any:
    """Return the Arrow schema of rows with extra columns, whose names begin with `EXTRA`, unlike the others."""
    return pa.schema([*SCHEMA, *((f"{EXTRA}{name}", pa.string()) for name in extra)])


def write(target: Path, batches: Iterator[pa.RecordBatch], extra: Sequence[str]) -> None:
    """Write record batches of `schema`, followed by their checksum, whole or not at all, even if a batch raises."""
    with replacing(target) as temporary:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, schema(extra)) as stream:
            for batch in batches:
                stream.write_batch(batch)
        with temporary.open("r+b") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            file.write(digest)


def write_aside(name: str, batches: Iterator[pa.RecordBatch], extra: Sequence[str], error: OSError) -> pa.Table:
    """Return the rows from a temporary file, which goes when it is no longer mapped: the cache gave an ``error``."""
    try:
        with tempfile.TemporaryDirectory(prefix="mtl-", ignore_cleanup_errors=True) as folder:
            target = Path(folder) / name
            write(target, batches, extra)
            return mapped(target)
    except OSError:
        found = f"a cache folder that cannot be written ({error.strerror or error}), and no temporary folder either"
        repair = "set MTL_CACHE_DIR to another folder, or free some space"
        place = str(error.filename or "the cache")
        raise DataError(Problem(place, found, "a writable folder with free space", repair)) from error


def is_whole(target: Path) -> bool:
    """Tell whether the cache file is there and its content is what was written."""
    try:  # read, not mapped: a disk that fails is then an error, not a signal
        remaining = target.stat().st_size - _DIGEST_BYTES
        hasher = hashlib.sha256()
        with target.open("rb") as file:
            while remaining > 0 and (block := file.read(min(remaining, _BLOCK_BYTES))):
                hasher.update(block)
                remaining -= len(block)
            return file.read() == hasher.digest()
    except OSError:
        return False


def mapped(target: Path) -> pa.Table:
    """Return the rows of a cache file, memory-mapped."""
    with pa.memory_map(str(target)) as source, pa.ipc.open_stream(source) as stream:
        return stream.read_all()


def record_batch(rows: Sequence[ValidRow], extra: Sequence[str]) -> Any:
    """Return a batch of `schema`."""
    texts, labels, lines, *values = map(list, zip(*rows, strict=True))
    keys = pa.py_buffer(b"".join(map(text_key, texts)))  # little-endian
    columns = [
        pa.array(texts, pa.string()),
        pa.array(labels, pa.string()),
        pa.array(lines, pa.int64()),
        pa.Array.from_buffers(pa.uint64(), len(texts), [None, keys]),
        *(pa.array(column, pa.string()) for column in values),
    ]
    return pa.record_batch(columns, schema=schema(extra))


IntArray = npt.NDArray[np.int64]
KeyArray = npt.NDArray[np.uint64]

_ROWS_AT_ONCE = 4096


class Column(Sequence[str]):
    """The values of one text column: read from the memory map when asked for, never held as a whole.

    They are a `pyarrow.ChunkedArray` of strings, or those of ``indices`` ``(N,)`` in this order.
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


# Not a `datasets.Dataset`: for 500,000 rows selected from 1,000,000 that takes 19 s for the keys and 23 s for texts,
# this 0.02 s and 2.7 s. Importing it adds half a second to each run, and it does not verify its cache.
class Table:
    """Rows of one data file, with the line of each, over a memory-mapped `pyarrow.Table` of all of its rows."""

    def __init__(self, path: Path, rows: Any, indices: IntArray | None = None) -> None:
        self.path = path  # the data file; of a data set ``name[split]``
        self._rows = rows
        self._indices = indices  # the rows that belong to this table, in this order, ``(N,)``; ``None`` for all

    def __len__(self) -> int:
        return len(self._rows) if self._indices is None else len(self._indices)

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

    def content(self) -> str:
        """Return the SHA-256 of all rows that were read, whichever of them this table has."""
        return checksum(self._rows.to_batches())

    def source(self, index: int) -> str:
        """Return where row ``index`` comes from: ``reviews.csv:17``."""
        row = index if self._indices is None else int(self._indices[index])
        return f"{self.path.name}:{self.column('line')[row].as_py()}"

    def sources(self) -> list[str]:
        """Return where the rows come from, each as ``reviews.csv:17``."""
        return [f"{self.path.name}:{line}" for line in self.lines.tolist()]

    def select(self, indices: npt.ArrayLike) -> Self:
        """Return the table of the given rows, in the given order; no text is copied."""
        rows = np.asarray(indices, dtype=np.int64)
        return type(self)(self.path, self._rows, rows if self._indices is None else self._indices[rows])

    def column(self, name: str) -> Any:
        """Return a column of the whole file as a `pyarrow.ChunkedArray`, whatever rows this table has."""
        return self._rows.column(name)

    def _chosen(self, values: Any) -> Any:
        return values if self._indices is None else values[self._indices]
