"""A server in this process, in a thread of its own, on a free port; and a saved model for it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from mtl.model.conformal import Outcomes
from mtl.model.encoder import Encoder
from mtl.model.loading import load_tokenizer
from mtl.model.saved import HeadSpec, TaskHead, build_network, save_model
from mtl.serving.app import create_app
from mtl.serving.batching import Batcher
from mtl.serving.guard import Limits
from mtl.serving.metrics import Metrics
from mtl.serving.running import Server, bind, url
from mtl.serving.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LABELS = {"topic": ("price", "größe <b>", "=other"), "mood": ("0", "1")}


def write_model(folder: Path, encoder: Path, seed: int = 1, *, outcomes: bool = True) -> Path:
    """Write a saved model with random heads for the tasks of `LABELS`; ``outcomes=False``: none for ``mood``."""
    torch.manual_seed(seed)
    spec = HeadSpec("linear", scale=10.0)
    tasks = {
        name: TaskHead(list(labels), spec, temperature=0.5, outcomes=_outcomes(len(labels)))
        for name, labels in LABELS.items()
    }
    if not outcomes:
        tasks["mood"] = replace(tasks["mood"], outcomes=None)
    network = build_network(Encoder.from_folder(encoder), tasks)
    save_model(folder, network, load_tokenizer(encoder), tasks, "")
    return folder


def _outcomes(labels: int) -> Outcomes:
    """Return outcomes with which some texts have sets of several labels, and some are not answered."""
    true = [[round(0.05 + 0.018 * at, 6) for at in range(50)] for _ in range(labels)]
    return Outcomes(true, right=[round(0.4 + 0.003 * at, 6) for at in range(200)], wrong=[0.7] * 20)


@dataclass
class Running:
    """A server that answers."""

    url: str
    service: Service
    batcher: Batcher
    server: Server

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextmanager
def running(
    model: Path,
    limits: Limits | None = None,
    *,
    queue: int = 10_000,
    batch_tokens: int = 16_384,
    token: str | None = None,
    hosts: tuple[str, ...] | None = ("127.0.0.1", "localhost"),
    **options: Any,
) -> Iterator[Running]:
    """Serve a model in fp32 on the CPU until the block ends; ``options`` are those of `Service`."""
    limits = limits or Limits()
    metrics = Metrics()
    service = Service(model, "cpu", "fp32", metrics, **options)
    batcher = Batcher("fp32", batch_tokens, queue, metrics)
    app = create_app(service, batcher, limits, metrics, token=token, hosts=hosts)
    server = Server(app, limits, service.reload)
    bound = bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.answer, args=(bound, batcher))
    thread.start()
    until(lambda: server.started)
    try:
        yield Running(url(bound), service, batcher, server)
    finally:
        server.should_exit = True
        thread.join()


class Hold:
    """Keeps the batches of a server back until `release`."""

    def __init__(self, running: Running) -> None:
        self.sizes: list[int] = []
        self.begun = threading.Event()
        self._gate = threading.Event()
        compute = running.batcher._compute

        def held(batch: list[Any]) -> list[Any]:
            self.sizes.append(len(batch))
            self.begun.set()
            self._gate.wait(60)
            return compute(batch)

        running.batcher._compute = held  # type: ignore[method-assign]

    def release(self) -> None:
        self._gate.set()


def until(condition: Any, seconds: float = 60.0) -> None:
    """Wait until a condition holds; fail after a time that no working program needs."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
