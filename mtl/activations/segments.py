"""Segments: the files that hold a source's rows, written whole or not at all and checked before their first use.

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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mtl.activations.keys import KEY_BYTES
from mtl.activations.layout import Block, Layout
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
    """A segment on disk.

    Attributes:
        index: Its index file.
        size: The bytes of its values.
        checksum: Their CRC-32.
    """

    index: Path
    size: int
    checksum: int

    @property
    def values(self) -> Path:
        """The file with the vectors."""
        return self.index.with_suffix(VALUES)


def index_bytes(layout: Layout, rows: int) -> int:
    """Return the size of the index of so many rows."""
    return _HEADER.size + rows * (KEY_BYTES + (4 if layout.ragged else 0)) + _CHECKSUM.size


def write_segment(folder: Path, layout: Layout, blocks: Sequence[Block]) -> Segment:
    """Write rows as a new segment.

    Args:
        folder: The folder of the source.
        layout: How the rows look.
        blocks: The rows.

    Raises:
        OSError: It cannot be written; nothing is left of it.
    """
    name = secrets.token_hex(8)
    index, values = (folder / f"{name}{suffix}" for suffix in (INDEX, VALUES))
    size = checksum = 0
    try:
        with replacing(values) as temporary, temporary.open("wb") as file:
            for block in blocks:
                data = np.ascontiguousarray(block.values).reshape(-1).view(np.uint8).data
                file.write(data)
                size, checksum = size + len(data), zlib.crc32(data, checksum)
        with replacing(index) as temporary:
            temporary.write_bytes(_index(folder, layout, blocks, size, checksum))
    except BaseException:
        values.unlink(missing_ok=True)
        raise
    return Segment(index, size, checksum)


def read_index(index: Path, layout: Layout) -> tuple[Segment, NDArray[np.bytes_], NDArray[np.int64]]:
    """Read which rows a segment has; its values are not looked at but for their size.

    Returns:
        The segment, the keys of its rows (``S16``, ``(N,)``) and the vectors of each, int64, ``(N,)``.

    Raises:
        DamagedError: The index is not what was written, or there are no values of the right size.
        OSError: It cannot be read.
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
    found = segment.values.stat().st_size if segment.values.is_file() else None
    if found != size or size != lengths.sum() * layout.vector_bytes:
        raise DamagedError("its values are gone" if found is None else f"{found:,} bytes of values; expected {size:,}")
    return segment, keys, lengths


def count_rows(index: Path) -> int | None:
    """Return how many rows an index says it has, from its header alone; ``None`` if that cannot be read."""
    try:
        with index.open("rb") as file:
            return _header(file.read(_HEADER.size), index)[0]
    except (OSError, DamagedError):
        return None


def verify(segment: Segment) -> None:
    """Read the values of a segment once and compare them with their checksum.

    Raises:
        DamagedError: They are not what was written.
        OSError: They cannot be read.
    """
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
        return np.empty((0, layout.dim), layout.numpy)
    mapped = np.memmap(values, layout.numpy, mode="r")
    return np.asarray(mapped).reshape(-1, layout.dim)  # as a plain array: slices of a memmap are slow


def remove_segment(index: Path) -> None:
    """Remove a segment, its index first, so that no moment shows an index without values.

    Raises:
        OSError: A file is there and cannot be removed.
    """
    index.unlink(missing_ok=True)
    index.with_suffix(VALUES).unlink(missing_ok=True)


def _index(folder: Path, layout: Layout, blocks: Sequence[Block], size: int, checksum: int) -> bytes:
    rows = sum(map(len, blocks))
    parts = [_HEADER.pack(_MAGIC, folder.name.encode(), rows, size, checksum)]
    parts += [block.keys.tobytes() for block in blocks]
    if layout.ragged:
        parts += [block.lengths.astype("<u4").tobytes() for block in blocks]
    content = b"".join(parts)
    return content + _CHECKSUM.pack(zlib.crc32(content))


def _header(content: bytes, index: Path) -> tuple[int, int, int]:
    """Return rows, bytes of values and their checksum."""
    if len(content) < _HEADER.size:
        raise DamagedError(f"its index ends after {len(content)} bytes")
    magic, folder, rows, size, checksum = _HEADER.unpack_from(content)
    if magic != _MAGIC:
        raise DamagedError("its index does not begin as one")
    if folder != index.parent.name.encode():
        raise DamagedError("it belongs to another source")
    return rows, size, checksum
