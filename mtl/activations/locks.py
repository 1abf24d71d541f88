"""Locks between processes. The operating system drops them with the process that held them, however it ends."""

from __future__ import annotations

import logging
import os
import secrets
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

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
    """Hold a lock inside; if that means waiting for more than a moment, say so once.

    Args:
        lock: The lock.
        task: What the process that has it may be doing, for the log.
        wait: Whether to wait for it.

    Yields:
        Whether the lock is held.
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
    """Says to other processes that this one uses a folder, until it is released, dropped, or the process ends.

    Args:
        folder: The folder.

    Raises:
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / f"{os.getpid()}-{secrets.token_hex(4)}{LEASE}"
        lock = file_lock(path)
        lock.acquire(timeout=_PROBE_SECONDS)  # `users` holds it for a moment while it looks
        self._finalizer = weakref.finalize(self, _end, lock, path, os.getpid())

    def release(self) -> None:
        """End the lease; a second time does nothing."""
        self._finalizer()


def users(folder: Path) -> list[int]:
    """Return the ids of the living processes that use a folder, and remove what dead ones left of their leases."""
    living = []
    for path in folder.glob(f"*-*{LEASE}"):
        process = path.name.partition("-")[0]
        lock = file_lock(path)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):  # held, or of another user, of whom nothing is known
            living.append(int(process) if process.isdecimal() else 0)
        else:
            _end(lock, path, os.getpid())
    return sorted(living)


def _end(lock: FileLock, path: Path, owner: int) -> None:
    if os.getpid() != owner:  # a forked child: the lease is its parent's
        return
    lock.release()
    with suppress(OSError):
        path.unlink(missing_ok=True)
