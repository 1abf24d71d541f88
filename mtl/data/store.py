"""The cache of validated rows: one Arrow file per data file and choice of columns, verified each time it is used.

A cache file is an Arrow IPC stream with its own SHA-256 behind it, so that one file is either whole or not used. Any of
them may be deleted at any time: the data file is then read again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mtl.base.errors import DataError, Problem
from mtl.base.files import cache_root, replacing
from mtl.data.problems import Columns

SCHEMA = pa.schema([("text", pa.string()), ("label", pa.string()), ("line", pa.int64()), ("key", pa.uint64())])
EXTRA = "extra:"
"""How the names of extra columns begin."""

_VERSION = 2  # raise it when the checks, the schema or the keys change: older cache files are then not found
_DIGEST_BYTES = hashlib.sha256().digest_size
_BLOCK_BYTES = 1 << 20


def default_folder() -> Path:
    """Return the cache folder: ``$MTL_CACHE_DIR/examples``, or ``~/.cache/mtl/examples`` if that is not set."""
    return cache_root() / "examples"


def cache_file(folder: Path, path: Path, columns: Columns) -> Path:
    """Return where the rows of a data file are cached: named after its content, its format and the columns."""
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    chosen = [columns.text, columns.label, columns.label_optional, *columns.extra]
    identity = json.dumps([_VERSION, content, path.suffix.lower(), *chosen])
    return folder / f"{hashlib.sha256(identity.encode()).hexdigest()}.arrow"


def schema(extra: Sequence[str] = ()) -> Any:
    """Return the Arrow schema of rows with extra columns, whose names begin with `EXTRA` so that none hides ours."""
    return pa.schema([*SCHEMA, *((f"{EXTRA}{name}", pa.string()) for name in extra)])


def write(target: Path, batches: Iterator[pa.RecordBatch], extra: Sequence[str] = ()) -> None:
    """Write the batches, followed by their checksum, so that ``target`` is seen whole or not at all.

    Args:
        target: The cache file.
        batches: Record batches of `schema`; an exception that they raise leaves no file.
        extra: The names of the extra columns.

    Raises:
        OSError: The folder cannot be written to, or the disk is full.
    """
    with replacing(target) as temporary:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, schema(extra)) as stream:
            for batch in batches:
                stream.write_batch(batch)
        with temporary.open("r+b") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            file.write(digest)


def write_aside(name: str, batches: Iterator[pa.RecordBatch], extra: Sequence[str], error: OSError) -> pa.Table:
    """Return the rows from a temporary file, which goes when it is no longer mapped: the cache cannot be written.

    Args:
        name: The file's name.
        batches: As for `write`.
        extra: The names of the extra columns.
        error: What the cache said, for the error where no temporary file can be written either.

    Raises:
        DataError: That.
    """
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
    try:
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


def record_batch(
    texts: list[str],
    labels: list[str | None],
    lines: list[int],
    keys: bytes,
    extra: Mapping[str, list[str]] | None = None,
) -> Any:
    """Return a batch of `schema`; ``keys`` are 8 little-endian bytes per row, ``extra`` the extra columns by name."""
    extra = extra or {}
    columns = [
        pa.array(texts, pa.string()),
        pa.array(labels, pa.string()),
        pa.array(lines, pa.int64()),
        pa.Array.from_buffers(pa.uint64(), len(texts), [None, pa.py_buffer(keys)]),
        *(pa.array(values, pa.string()) for values in extra.values()),
    ]
    return pa.record_batch(columns, schema=schema(list(extra)))
