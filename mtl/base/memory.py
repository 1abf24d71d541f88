"""How much memory a process keeps for its next step or batch: freed blocks, compiled kernels; and its peak."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

# mallopt(3) of the GNU C library
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_DEFAULT_MMAPS = 65_536
_LARGEST_MMAP_THRESHOLD = 4 * 2**20 * ctypes.sizeof(ctypes.c_long)

_changing = threading.Lock()
_blocks = 0


def keep_few_kernels() -> None:
    """Let oneDNN and PyTorch, each with a cache of its own, keep 64 kernels on a CPU in place of 1,024.

    Call it before torch is imported. Batches come in all sizes, and each size has kernels of its own. With 64 an epoch
    of MiniLM on 6,000 short texts needs 1.6 GiB in place of 2.6, one of MPNet 3.7 in place of 4.5, and a server stays
    at 0.75 GB that would grow to 2, all of them as fast. Both variables can be set to other numbers.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "64")


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let the C library keep freed memory inside the block, and return it to the system at its end.

    By default large blocks, such as a step's activations and the gradient of the embeddings, return to the system as
    soon as they are freed; the next step gets them again, page by page, each zeroed by the kernel. On a CPU that takes
    a tenth of a training step of MiniLM and a fifteenth of encoding. Without the GNU C library this does nothing.

    Blocks may be nested and run in several threads: the last one to end returns the memory. Afterwards the thresholds
    of the library stay where a process that runs an encoder would move them: at 32 and 64 MiB.
    """
    global _blocks
    library = _gnu_library()
    if library is None:
        yield
        return
    with _changing:
        _blocks += 1
        if _blocks == 1:
            library.mallopt(_MMAP_MAX, 0)
            library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        with _changing:
            _blocks -= 1
            if _blocks == 0:
                _restore(library)


@contextlib.contextmanager
def freed_memory_returned() -> Iterator[None]:
    """Let the C library return blocks of 1 MiB and more to the system as soon as they are freed, inside the block.

    The weights of a sharded encoder's layers come and go between small blocks that stay: a heap keeps holes of their
    sizes, more than sharding saves. Without the GNU C library this does nothing.
    """
    library = _gnu_library()
    if library is None:
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, 2**20)
    try:
        yield
    finally:
        _restore(library)


def _restore(library: ctypes.CDLL) -> None:
    """Leave the thresholds where the library would have moved them: once set, they no longer move by themselves.

    They start at 128 KiB, and grow to the largest block freed, up to 32 MiB.
    """
    library.mallopt(_MMAP_MAX, _DEFAULT_MMAPS)
    library.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    library.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_MMAP_THRESHOLD)
    library.malloc_trim(0)


class PeakMemory:
    """The peak memory of the process since this object was made.

    On Linux the kernel's mark is reset for it. Elsewhere the mark covers the whole life of the process, so it is known
    only if it has risen since.
    """

    def __init__(self) -> None:
        self._is_set_back = _set_back_peak()
        self._before = 0 if self._is_set_back else _peak_of_process()

    def bytes(self) -> int | None:
        """Return the peak, or None if an earlier, higher one hides it."""
        peak = _peak_since_set_back() if self._is_set_back else _peak_of_process()
        return peak if peak > self._before else None


def _set_back_peak() -> bool:
    """Set the peak of the resident memory back to what is resident now (proc(5), clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _peak_since_set_back() > 0
    except OSError:
        return False


def _peak_since_set_back() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    peak = re.search(r"^VmHWM:\s*(\d+)", status, re.MULTILINE)
    return int(peak[1]) * 1024 if peak else 0


def _peak_of_process() -> int:
    """Return the peak since the process began; the system counts kilobytes on Linux and bytes on macOS."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _gnu_library() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
