"""What the server counts, for Prometheus."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_REQUESTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The figures of one server; all methods may be called from any thread."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter("mtl_requests", "Answered requests.", ["path", "status"], registry=registry)
        self._seconds = Histogram(
            "mtl_request_seconds",
            "Time from the first byte of a body to the answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "mtl_batch_requests",
            "Requests that went through the encoder together.",
            buckets=_REQUESTS,
            registry=registry,
        )
        self._texts = Counter("mtl_texts", "Texts that went through the encoder.", registry=registry)
        self._tokens = Counter("mtl_tokens", "Their tokens.", registry=registry)
        self._waiting = Gauge("mtl_queue_texts", "Texts that wait in the queue.", registry=registry)
        self._reloads = Counter("mtl_reloads", "Attempts to reload the model.", ["result"], registry=registry)
        for result in ("loaded", "refused"):
            self._reloads.labels(result)  # 0 until there is one

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(path, status).inc()
        self._seconds.observe(seconds)

    def batch(self, requests: int, texts: int, tokens: int) -> None:
        """Count a batch that went through the encoder."""
        self._batches.observe(requests)
        self._texts.inc(texts)
        self._tokens.inc(tokens)

    def reload(self, result: str) -> None:
        """Count an attempt to reload the model: ``loaded`` or ``refused``."""
        self._reloads.labels(result).inc()

    def render(self, waiting: int) -> bytes:
        """Return everything, with the texts that wait now, in Prometheus' text format."""
        self._waiting.set(waiting)
        return generate_latest(self._registry)
