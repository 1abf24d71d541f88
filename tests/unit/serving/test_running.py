"""The sockets and threads of the server."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from unittest import mock

import httpx
import pytest

from mtl.serving.app import create_app
from mtl.serving.batching import Batcher
from mtl.serving.guard import Limits
from mtl.serving.metrics import Metrics
from mtl.serving.running import Server, bind, url
from mtl.serving.service import Service
from tests.support.serving import until, write_model

if TYPE_CHECKING:
    from pathlib import Path


def test_the_second_packet_of_an_answer_is_not_held_back() -> None:
    """For 40 ms, until the client acknowledges the first one: asyncio turns that off for a socket that names TCP."""
    seen: list[int] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def connect() -> None:
        with bind("127.0.0.1", 0) as bound:
            async with await asyncio.start_server(note, sock=bound):
                reader, writer = await asyncio.open_connection(*bound.getsockname())
                await reader.read()
                writer.close()

    asyncio.run(connect())
    assert [bool(value) for value in seen] == [True]


@pytest.fixture
def batcher() -> Batcher:
    return Batcher("fp32", 1000, 1000, Metrics())


@pytest.fixture
def server(batcher: Batcher, tiny_folder: Path, tmp_path: Path) -> Server:
    metrics = Metrics()
    service = Service(write_model(tmp_path / "model", tiny_folder), "cpu", "fp32", metrics)
    limits = Limits()
    return Server(create_app(service, batcher, limits, metrics, token=None, hosts=None), limits, service.reload)


def ask(server: Server, address: str) -> httpx.Response:
    """Send a request as soon as the server answers, and end the server after it."""
    until(lambda: server.started)
    answer = httpx.post(f"{address}/predict", json={"inputs": "a text"}, timeout=60)
    server.should_exit = True
    return answer


def test_batches_are_computed_in_the_thread_that_has_loaded_the_model(server: Server, batcher: Batcher) -> None:
    def noted(batch: list[Any]) -> Any:
        threads.append(threading.current_thread())
        return compute(batch)

    threads: list[threading.Thread] = []
    compute = batcher._compute
    bound = bind("127.0.0.1", 0)
    with mock.patch.object(batcher, "_compute", noted), ThreadPoolExecutor(1) as clients:
        answer = clients.submit(ask, server, url(bound))
        server.answer(bound, batcher)
    assert answer.result().status_code == 200
    assert threads == [threading.current_thread()]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_clients_that_wait_are_told_of_an_end_at_once(
    error: type[BaseException], server: Server, batcher: Batcher, caplog: pytest.LogCaptureFixture
) -> None:
    """By a second signal, or because batches can no longer be computed."""

    def end() -> None:  # in place of the first batch
        until(lambda: batcher.waiting == 1)
        if error is MemoryError:
            raise error
        server._end(signal.SIGINT, None)
        server._end(signal.SIGINT, None)

    bound = bind("127.0.0.1", 0)
    address = bound.getsockname()
    with mock.patch.object(batcher, "run", end), ThreadPoolExecutor(1) as clients:
        answer = clients.submit(ask, server, url(bound))
        with pytest.raises(error):
            server.answer(bound, batcher)
    assert answer.result().status_code == 503
    assert answer.result().json()["problems"][0]["found"] == "a shutdown"
    assert not caplog.records
    assert not batcher.alive
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=60)
