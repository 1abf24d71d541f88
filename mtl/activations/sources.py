"""Where the cache lies, and the sources in it: one folder each, named after what its rows come from."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from mtl.activations.layout import Layout
from mtl.activations.locks import file_lock, held, users
from mtl.activations.segments import INDEX, VALUES
from mtl.base.files import cache_root, write_json, write_text_atomically

log = logging.getLogger(__name__)
DESCRIPTION: Final = "source.json"
LOCK: Final = ".lock"
WRITER: Final = ".writer.lock"
WORK: Final = "work.json"
PARTIAL: Final = ".partial-*"
_VERSION: Final = 2  # raise it when the files or an encoder's figures change: older entries are then not found
_NAME: Final = re.compile(r"[0-9a-f]{32}")


def default_folder() -> Path:
    """Return the folder of the cached activations."""
    return cache_root() / "activations"


@dataclass(frozen=True, slots=True)
class StoredSource:
    """A source's folder in the cache.

    Attributes:
        path: The folder.
        size: The bytes of its files.
        used: When it was last opened or written, in seconds since the epoch.
    """

    path: Path
    size: int
    used: float


def folder_lock(folder: Path) -> AbstractContextManager[bool]:
    """Hold the lock under which sources are opened, written and removed, so that their sizes add up.

    It is taken after the lock of a source's writer, never before it.
    """
    return held(file_lock(folder / LOCK), "writes to the cache")


def describe(source: str, layout: Layout) -> str:
    """Return the description that stands in a source's folder; the folder's name is a checksum of it."""
    facts = {"version": _VERSION, "source": source, "byteorder": sys.byteorder, **asdict(layout)}
    return json.dumps(facts, sort_keys=True, indent=2, ensure_ascii=True) + "\n"


def folder_name(description: str) -> str:
    """Return the name of the folder of a source."""
    return hashlib.sha256(description.encode()).hexdigest()[:32]


def write_description(path: Path, description: str) -> None:
    """Write the description of a source, unless it stands there as it should, and note that the source is in use now.

    Raises:
        OSError: The folder cannot be written.
    """
    file = path / DESCRIPTION
    content = file.read_bytes() if file.is_file() else None
    if content is not None and content != description.encode():
        log.warning("%s: damaged; written again", file)
    if content != description.encode():
        write_text_atomically(file, description)
    os.utime(file)


def read_description(path: Path) -> dict[str, Any] | None:
    """Return the facts of a source's description; ``None`` if it is missing or damaged."""
    try:
        text = (path / DESCRIPTION).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return dict(json.loads(text)) if folder_name(text) == path.name else None


def read_work(path: Path) -> tuple[float, int]:
    """Return the seconds that computing rows of a source has taken so far, and how many tokens these rows had.

    Both are 0 where that is not known: the rows were cached by a version that did not note it, or it was killed before.
    """
    try:
        values = json.loads((path / WORK).read_text(encoding="utf-8"))
        seconds, tokens = float(values["seconds"]), int(values["tokens"])
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return 0.0, 0
    return (seconds, tokens) if 0 < seconds < math.inf and tokens > 0 else (0.0, 0)


def add_work(path: Path, seconds: float, tokens: int) -> None:
    """Add to what `read_work` returns; the lock of the source's writer must be held.

    Raises:
        OSError: The folder cannot be written.
    """
    before = read_work(path)
    write_json(path / WORK, {"seconds": before[0] + seconds, "tokens": before[1] + tokens})


def stored_sources(folder: Path) -> list[StoredSource]:
    """Return the sources of the cache, the least recently used first; nothing else in the folder is looked at."""
    if not folder.is_dir():
        return []
    names = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    found = [_stored(path) for path in names if path.is_dir() and not path.is_symlink()]
    return sorted(found, key=lambda source: (source.used, source.path.name))


def remove_source(path: Path) -> list[int]:
    """Remove a source unless a living process uses it; the folder's lock must be held.

    Only files are removed that the cache has made. An index goes before its values, so that a removal that is cut off
    leaves no index without them.

    Returns:
        The ids of the processes that use it; none: it is removed.

    Raises:
        OSError: A file cannot be removed.
    """
    living = users(path)
    if living:
        return living
    for pattern in (f"*{INDEX}", f"*{VALUES}", PARTIAL, WRITER, WORK, DESCRIPTION):
        for file in path.glob(pattern):
            file.unlink(missing_ok=True)
    path.rmdir()
    return []


def leftovers(path: Path) -> Iterator[Path]:
    """Yield what killed processes left in a source; the lock of its writer and the folder's must be held."""
    yield from path.glob(PARTIAL)
    for values in path.glob(f"*{VALUES}"):
        if not values.with_suffix(INDEX).exists():
            yield values


def _stored(path: Path) -> StoredSource:
    size, used = 0, 0.0
    for file in path.iterdir():
        try:
            status = file.stat()
        except FileNotFoundError:  # removed a moment ago
            continue
        size += status.st_size
        if file.name == DESCRIPTION:
            used = status.st_mtime
    return StoredSource(path, size, used)
