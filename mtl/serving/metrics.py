"""Counters and histograms of the server, in the text format of Prometheus."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

_PAGE = 4096
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Histogram:
    """How often a value was at most each of some bounds.

    Args:
        bounds: The upper bounds, ascending.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[next((at for at, bound in enumerate(self._bounds) if value <= bound), -1)] += 1
        self._sum += value

    def lines(self, name: str, help_text: str) -> Iterator[str]:
        """Yield the lines of the histogram."""
        yield from _heading(name, help_text, "histogram")
        total = 0
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """What the server counts; all methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds = Histogram(SECONDS)
        self._batches = Histogram(SIZES)
        self._texts = 0
        self._tokens = 0
        self._reloads: Counter[str] = Counter({"loaded": 0, "refused": 0})

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        with self._lock:
            self._requests[path, status] += 1
            self._seconds.observe(seconds)

    def batch(self, requests: int, texts: int, tokens: int) -> None:
        """Count a batch that went through the encoder."""
        with self._lock:
            self._batches.observe(requests)
            self._texts += texts
            self._tokens += tokens

    def reload(self, result: str) -> None:
        """Count an attempt to reload the model: ``loaded`` or ``refused``."""
        with self._lock:
            self._reloads[result] += 1

    def render(self, waiting: int) -> str:
        """Return everything in the text format of Prometheus, version 0.0.4.

        Args:
            waiting: Texts in the queue now.
        """
        with self._lock:
            lines = [
                *_heading("mtl_requests_total", "Answered requests.", "counter"),
                *(
                    f'mtl_requests_total{{path="{path}",status="{status}"}} {count}'
                    for (path, status), count in sorted(self._requests.items())
                ),
                *self._seconds.lines("mtl_request_seconds", "Time from the first byte of a body to the answer."),
                *self._batches.lines("mtl_batch_requests", "Requests that went through the encoder together."),
                *_single("mtl_texts_total", "Texts that went through the encoder.", "counter", self._texts),
                *_single("mtl_tokens_total", "Their tokens.", "counter", self._tokens),
                *_single("mtl_queue_texts", "Texts that wait in the queue.", "gauge", waiting),
                *_heading("mtl_reloads_total", "Attempts to reload the model.", "counter"),
                *(f'mtl_reloads_total{{result="{name}"}} {count}' for name, count in sorted(self._reloads.items())),
            ]
        if (memory := resident_memory()) is not None:
            lines += _single("process_resident_memory_bytes", "Resident memory.", "gauge", memory)
        return "\n".join(lines) + "\n"


def resident_memory() -> int | None:
    """Return the resident memory of this process in bytes, or None where the system has no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return None


def _heading(name: str, help_text: str, kind: str) -> list[str]:
    return [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]


def _single(name: str, help_text: str, kind: str, value: float) -> list[str]:
    return [*_heading(name, help_text, kind), f"{name} {value}"]
