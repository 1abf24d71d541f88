"""The space of the cache: its folder and sources, locks between processes, and the size limit with eviction."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import secrets
import shutil
import sys
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from mtl.activations.layout import Layout
from mtl.activations.segments import INDEX, VALUES
from mtl.base.errors import ConfigError, Problem
from mtl.base.files import cache_root, write_json, write_text_atomically

log = logging.getLogger(__name__)
LEASE: Final = ".use"
_POLL_SECONDS: Final = 0.05
_QUIET_SECONDS: Final = 2.0
_PROBE_SECONDS: Final = 10.0


def file_lock(path: Path) -> FileLock:
    """Return a lock that belongs to the process rather than to one of its threads, and counts its holders."""
    return FileLock(path, thread_local=False)


@contextmanager
def held(lock: FileLock, task: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock inside, and yield whether it is held, which without ``wait`` it may not be.

    Waiting for more than a moment is logged once; ``task`` is what the process that has the lock may be doing.
    """
    try:
        lock.acquire(timeout=_QUIET_SECONDS if wait else 0, poll_interval=_POLL_SECONDS)
    except Timeout:
        if not wait:
            yield False
            return
        log.warning("waiting for another process that %s (%s)", task, Path(lock.lock_file).parent)
        lock.acquire(poll_interval=_POLL_SECONDS)
    try:
        yield True
    finally:
        lock.release()


class Lease:
    """Says to other processes that this one uses a folder, until it is dropped or the process ends."""

    def __init__(self, folder: Path) -> None:
        path = folder / f"{os.getpid()}-{secrets.token_hex(4)}{LEASE}"
        lock = file_lock(path)
        lock.acquire(timeout=_PROBE_SECONDS)  # `is_used` holds it for a moment while it looks
        weakref.finalize(self, _end, lock, path, os.getpid())


def is_used(folder: Path) -> bool:
    """Whether a living process uses a folder; what dead ones left of their leases is removed."""
    used = False
    for path in folder.glob(f"*-*{LEASE}"):
        lock = file_lock(path)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):  # held, or of another user
            used = True
        else:
            _end(lock, path, os.getpid())
    return used


def _end(lock: FileLock, path: Path, owner: int) -> None:
    if os.getpid() != owner:  # a forked child: the lease is its parent's
        return
    lock.release()
    with suppress(OSError):
        path.unlink(missing_ok=True)


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
    """A source's folder in the cache."""

    path: Path
    size: int  # the bytes of its files
    used: float  # when it was last opened or written, in seconds since the epoch


def folder_lock(folder: Path) -> AbstractContextManager[bool]:
    """Hold the lock under which sources are opened, written and removed, so that their sizes add up.

    It is taken after the lock of a source's writer, never before it.
    """
    return held(file_lock(folder / LOCK), "writes to the cache")


def describe(source: str, layout: Layout) -> str:
    """Return the description that stands in a source's folder; the folder's name is a checksum of it."""
    facts = {"version": _VERSION, "source": source, "byteorder": sys.byteorder, "dtype": "float32", **asdict(layout)}
    return json.dumps(facts, sort_keys=True, indent=2, ensure_ascii=True) + "\n"


def folder_name(description: str) -> str:
    """Return the name of the folder of a source."""
    return hashlib.sha256(description.encode()).hexdigest()[:32]


def write_description(path: Path, description: str) -> None:
    """Write the description of a source, unless it stands there as it should, and note that it is in use now."""
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
    """Add to what `read_work` returns; the lock of the source's writer must be held."""
    before = read_work(path)
    write_json(path / WORK, {"seconds": before[0] + seconds, "tokens": before[1] + tokens})


def stored_sources(folder: Path) -> list[StoredSource]:
    """Return the sources of the cache, the least recently used first; nothing else in the folder is looked at."""
    if not folder.is_dir():
        return []
    names = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    sources = [_stored(path) for path in names if path.is_dir() and not path.is_symlink()]
    return sorted(sources, key=lambda source: (source.used, source.path.name))


def remove_source(path: Path) -> bool:
    """Remove a source unless a living process uses it; return whether it is gone. The folder's lock must be held.

    Only files are removed that the cache has made. An index goes before its values, so that a removal that is cut off
    leaves no index without them.

    Raises:
        OSError: A file cannot be removed.
    """
    if is_used(path):
        return False
    for pattern in (f"*{INDEX}", f"*{VALUES}", PARTIAL, WRITER, WORK, DESCRIPTION):
        for file in path.glob(pattern):
            file.unlink(missing_ok=True)
    path.rmdir()
    return True


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


VARIABLE: Final = "MTL_CACHE_LIMIT"
DEFAULT_LIMIT: Final = 10 * 10**9
_SIZE: Final = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[kmgt]?)(?P<binary>i?)b?", re.IGNORECASE | re.ASCII)
_HIGHEST: Final = 10**18
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def cache_limit() -> int:
    """Return the most bytes that the cached activations may take: ``$MTL_CACHE_LIMIT``, by default 10 GB.

    Raises:
        ConfigError: ``MTL_CACHE_LIMIT`` is no size.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return DEFAULT_LIMIT
    match = _SIZE.fullmatch(text)
    if match is None or (text.isdecimal() and text.strip("0")):
        expected = "a size with its unit, such as 20GB or 500MB; 0 switches the cache off"
        raise ConfigError(Problem(VARIABLE, repr(text), expected, f"{VARIABLE}=20GB"))
    base = 1024 if match["binary"] else 1000
    limit = float(match["number"]) * base ** _POWERS[match["unit"].lower()]
    if limit > _HIGHEST:
        raise ConfigError(Problem(VARIABLE, repr(text), f"at most {size_text(_HIGHEST)}", f"{VARIABLE}=20GB"))
    return int(limit)


def size_text(size: int) -> str:
    """Return an amount of bytes in the units of `cache_limit`: ``512 B``, ``3.4 GB``, ``10 GB``."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.95:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"


def make_room(folder: Path, own: Path, needed: int, limit: int) -> int:
    """Remove sources, the least recently used first, until ``needed`` bytes fit or none is left to remove.

    The folder's lock must be held. Sources in use are never removed.

    Args:
        folder: The folder of the cache.
        own: The source that the room is for.
        needed: Bytes that are to be written.
        limit: The most bytes that all sources together may take.

    Returns:
        The bytes that may be written now, perhaps fewer.
    """
    sources = stored_sources(folder)
    total = sum(source.size for source in sources)
    for source in sources:
        if total + needed <= limit:
            break
        if source.path != own and _evict(source.path):
            log.info("removed %s (%s) from the cache to make room", source.path, size_text(source.size))
            total -= source.size
    return max(0, limit - total)


def available(folder: Path, own: Path, limit: int) -> int:
    """Return the bytes that the source ``own`` could still write; the folder's lock must be held."""
    kept = sum(source.size for source in stored_sources(folder) if source.path == own or is_used(source.path))
    return max(0, min(limit - kept, shutil.disk_usage(folder).free))


def full_text(folder: Path, limit: int, rows: int, size: int) -> str:
    """Return the warning that so many rows, with values of ``size`` bytes, do not fit, and the way out."""
    taken = sum(source.size for source in stored_sources(folder))
    return (
        f"the cache {folder} is full: {size_text(taken)} of at most {size_text(limit)}, all of it in use. "
        f"{rows:,} rows ({size_text(size)}) and those after them are computed but not kept. "
        f"Raise the limit with {VARIABLE}={size_text(2 * limit).replace(' ', '')}; "
        "`python -m mtl.cache` shows what is there"
    )


def way_out(folder: Path, needed: int) -> str:
    """Return what a user can do where ``needed`` bytes do not fit into the cache."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        return f"its disk has {size_text(free)} left: free some, or set MTL_CACHE_DIR to a folder on another disk"
    return f"raise its limit with the environment variable {VARIABLE}"


def _evict(path: Path) -> bool:
    """Remove a source unless it is used or cannot be removed; return whether it is gone."""
    try:
        return remove_source(path)
    except OSError as error:
        log.warning("%s cannot be removed from the cache: %s", path, error.strerror or error)
        return False
