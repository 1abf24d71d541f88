"""Processes of their own: how long they take from start to end, and how much memory they need at most."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.figures import ROOT

_POLL = 0.02


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that has ended.

    Attributes:
        seconds: Wall-clock time with its start.
        peak: The most resident memory, bytes; files that it has mapped count as far as they were resident.
        anonymous: The most that was its own and no file's, bytes, sampled; 0 where the system does not tell.
        code: Exit code.
        output: What it wrote, stdout and stderr.
    """

    seconds: float
    peak: int
    anonymous: int
    code: int
    output: str


def python(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None, expected: int | None = 0
) -> Finished:
    """Run Python on ``arguments`` in the repository root.

    Args:
        arguments: Behind ``python``.
        environment: Variables to set.
        expected: The exit code, or nothing if any will do.

    Raises:
        RuntimeError: The process ended with another exit code.
    """
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=settings, stdout=output, stderr=subprocess.STDOUT
        )
        peak, anonymous = _watch(process)
        duration = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    if expected is not None and process.returncode != expected:
        raise RuntimeError(f"python {' '.join(arguments)} ended with {process.returncode}:\n{text[-3000:]}")
    return Finished(duration, peak, anonymous, process.returncode, text)


def _watch(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Wait for the end; return the peaks of resident and of anonymous memory, bytes.

    On Linux ``ru_maxrss`` of a child begins at what its parent had at the fork, so the peak is read from /proc; it
    misses at most what comes in the last fiftieth of a second.
    """
    peak = anonymous = 0
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        fields = _fields(status)
        peak = max(peak, fields.get("VmHWM", 0))
        anonymous = max(anonymous, fields.get("RssAnon", 0))
        time.sleep(_POLL)
    if not peak:
        largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        peak = largest if sys.platform == "darwin" else 1024 * largest
    return peak, anonymous


def _fields(status: Path) -> dict[str, int]:
    """Return the memory fields of a process in bytes; none if it has ended or the system has no /proc."""
    try:
        lines = status.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): 1024 * int(value) for name, value, _ in pairs}
