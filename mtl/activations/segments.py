"""Segment files: rows of a source, written whole or not at all, verified before use, and read memory-mapped.

A segment is two files. ``<name>.values`` holds the vectors and nothing else, so that it can be mapped. Then comes
``<name>.index``: a header with the size and the checksum of the values, keys, lengths, and a checksum of its own. Rows
are there when the index is: values without one are what a killed process left.
"""

from __future__ import annotations

import secrets
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mtl.activations.layout import KEY_BYTES, Block, Layout
from mtl.base.files import replacing

if TYPE_CHECKING:
    from numpy.typing import NDArray

VALUES: Final = ".values"
INDEX: Final = ".index"
_MAGIC: Final = b"mtl-act1"
_HEADER: Final = struct.Struct("<8s32sQQI")  # magic, name of the source's folder, rows, bytes and CRC-32 of the values
_CHECKSUM: Final = struct.Struct("<I")
_READ_BYTES: Final = 1 << 20


class DamagedError(Exception):
    """A segment that is not what was written; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment on disk."""

    index: Path
    size: int  # the bytes of its values
    checksum: int  # their CRC-32

    @property
    def values(self) -> Path:
        """The file with the vectors."""
        return self.index.with_suffix(VALUES)


def index_bytes(layout: Layout, rows: int) -> int:
    """Return the size of an index."""
    return _HEADER.size + rows * (KEY_BYTES + (4 if layout.ragged else 0)) + _CHECKSUM.size


def write_segment(folder: Path, layout: Layout, rows: Block) -> Segment:
    """Write rows as a new segment into the folder of a source; an error leaves nothing of it."""
    name = secrets.token_hex(8)
    index, values = (folder / f"{name}{suffix}" for suffix in (INDEX, VALUES))
    data = np.ascontiguousarray(rows.values).reshape(-1).view(np.uint8).data
    checksum = zlib.crc32(data)
    content = _HEADER.pack(_MAGIC, folder.name.encode(), len(rows), len(data), checksum) + rows.keys.tobytes()
    if layout.ragged:
        content += rows.lengths.astype("<u4").tobytes()
    try:
        with replacing(values) as temporary:
            temporary.write_bytes(data)
        with replacing(index) as temporary:
            temporary.write_bytes(content + _CHECKSUM.pack(zlib.crc32(content)))
    except BaseException:
        values.unlink(missing_ok=True)
        raise
    return Segment(index, len(data), checksum)


def read_index(index: Path, layout: Layout) -> tuple[Segment, NDArray[np.bytes_], NDArray[np.int64]]:
    """Read which rows a segment has: their keys ``S16`` ``(N,)``, and the vectors of each, int64, ``(N,)``.

    Raises:
        DamagedError: The index is not what was written, or there are no values of the right size.
    """
    content = index.read_bytes()
    rows, size, checksum = _header(content, index)
    if len(content) != index_bytes(layout, rows):
        raise DamagedError(f"{len(content):,} bytes of index cannot be those of {rows:,} rows")
    if zlib.crc32(content[: -_CHECKSUM.size]) != _CHECKSUM.unpack(content[-_CHECKSUM.size :])[0]:
        raise DamagedError("the checksum of its index does not match")
    keys = np.frombuffer(content, f"S{KEY_BYTES}", rows, _HEADER.size)
    lengths = np.ones(rows, np.int64)
    if layout.ragged:
        lengths = np.frombuffer(content, "<u4", rows, _HEADER.size + keys.nbytes).astype(np.int64)
    segment = Segment(index, size, checksum)
    actual = segment.values.stat().st_size if segment.values.is_file() else None
    if actual != size or size != lengths.sum() * layout.vector_bytes:
        raise DamagedError(
            "its values are gone" if actual is None else f"{actual:,} bytes of values; expected {size:,}"
        )
    return segment, keys, lengths


def count_rows(index: Path) -> int | None:
    """Return how many rows an index says it has, from its header alone; ``None`` if that cannot be read."""
    try:
        with index.open("rb") as file:
            return _header(file.read(_HEADER.size), index)[0]
    except (OSError, DamagedError):
        return None


def verify(segment: Segment) -> None:
    """Read the values of a segment once and compare them with their checksum; raise `DamagedError` if they differ."""
    checksum = size = 0
    with segment.values.open("rb") as file:
        while data := file.read(_READ_BYTES):
            size, checksum = size + len(data), zlib.crc32(data, checksum)
    if size != segment.size:
        raise DamagedError(f"{size:,} bytes of values; expected {segment.size:,}")
    if checksum != segment.checksum:
        raise DamagedError("the checksum of its values does not match")


def map_values(values: Path, layout: Layout) -> NDArray[Any]:
    """Return the vectors of a segment, mapped, ``(T, H)``."""
    if values.stat().st_size == 0:  # an empty file cannot be mapped
        return np.empty((0, layout.dim), np.float32)
    mapped = np.memmap(values, np.float32, mode="r")
    return np.asarray(mapped).reshape(-1, layout.dim)  # as a plain array: slices of a memmap are slow


def remove_segment(index: Path) -> None:
    """Remove a segment, its index first, so that no moment shows an index without values."""
    index.unlink(missing_ok=True)
    index.with_suffix(VALUES).unlink(missing_ok=True)


def _header(content: bytes, index: Path) -> tuple[int, int, int]:
    if len(content) < _HEADER.size:
        raise DamagedError(f"its index ends after {len(content)} bytes")
    magic, folder, rows, size, checksum = _HEADER.unpack_from(content)
    if magic != _MAGIC:
        raise DamagedError("its index does not begin as one")
    if folder != index.parent.name.encode():
        raise DamagedError("it belongs to another source")
    return rows, size, checksum


MAPS: Final = 32
"""The most files that `Rows` map at a time: each takes a file descriptor, and every task's split has its `Rows`."""


class Rows:
    """``N`` rows in the order that they were asked for. Nothing is in memory but 16 bytes a row.

    They stay valid after the store is closed, and their source is not evicted as long as they are there.

    Args:
        files: Files of values.
        places: For each row the number of its file, its first vector there and its vectors: fields ``segment``,
            ``start`` and ``length``, ``(N,)``.
        layout: How the rows look.
        lease: What keeps the files in place.
        checksum: That of the rows.
    """

    def __init__(
        self, files: Sequence[Path], places: NDArray[Any], layout: Layout, lease: object, checksum: str
    ) -> None:
        self.layout = layout
        self.checksum = checksum
        self._files = files
        self._places = places
        self._lease = lease
        self._mapped = lru_cache(maxsize=MAPS)(partial(map_values, layout=layout))

    def __len__(self) -> int:
        return len(self._places)

    def gather(
        self, indices: Sequence[int] | NDArray[np.integer[Any]]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
        """Copy rows into memory, one after the other.

        Args:
            indices: Which rows, ``(B,)``; any order, and a row may come more than once.

        Returns:
            The vectors, ``(sum(lengths), H)``, and how many of them each row has, ``(B,)``: None where each is one.
        """
        places = self._places[np.asarray(indices, np.int64)]
        lengths = places["length"].astype(np.int64)
        ends = np.cumsum(lengths)
        vectors = np.empty((int(lengths.sum()), self.layout.dim), np.float32)
        order = np.argsort(places["segment"], kind="stable")
        files, starts = np.unique(places["segment"][order], return_index=True)
        for file, which in zip(files.tolist(), np.split(order, starts[1:]), strict=False):  # no files: one empty part
            values = self._mapped(self._files[file])
            if not self.layout.ragged:
                vectors[which] = values[places["start"][which]]
                continue
            for row in which.tolist():
                start, length, end = int(places["start"][row]), int(lengths[row]), int(ends[row])
                vectors[end - length : end] = values[start : start + length]
        return vectors, lengths if self.layout.ragged else None
