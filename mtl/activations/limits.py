"""The size limit of the cache: what it is, and how room is made below it."""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path
from typing import Final

from mtl.activations.locks import users
from mtl.activations.sources import remove_source, stored_sources
from mtl.base.errors import ConfigError, Problem

log = logging.getLogger(__name__)
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
        The bytes that may be written now, at least 0; it may be less than ``needed``.
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
    kept = sum(each.size for each in stored_sources(folder) if each.path == own or users(each.path))
    return max(0, min(limit - kept, shutil.disk_usage(folder).free))


def full_text(folder: Path, limit: int, rows: int, size: int) -> str:
    """Return the warning that rows do not fit, with the way out.

    Args:
        folder: The folder of the cache.
        limit: The most bytes that all sources together may take.
        rows: How many rows do not fit so far.
        size: The bytes of their values.
    """
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
    try:
        return not remove_source(path)
    except OSError as error:
        log.warning("%s cannot be removed from the cache: %s", path, error.strerror or error)
        return False
