"""Run the application under uvicorn: the socket, slow and half-open clients, signals, and a graceful end."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mtl.base.errors import ConfigError, Problem, Terminated

if TYPE_CHECKING:
    from mtl.serving.batching import Batcher
    from mtl.serving.guard import Limits

KEEP_ALIVE_SECONDS = 30


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound, and does not listen yet: clients are refused until the model is loaded.

    The port 0 stands for any that is free.

    Raises:
        ConfigError: There is no such address, or the port is in use or not allowed.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        problem = Problem("host", f"{host!r}: {error}", "an address of this machine", "host=127.0.0.1")
        raise ConfigError(problem) from None
    family, kind, protocol, _, address = addresses[0]
    bound = socket.socket(family, kind, protocol)  # asyncio turns TCP_NODELAY on where it sees that this is TCP
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        found = f"{host}:{port}: {error.strerror}"
        raise ConfigError(Problem("port", found, "a port that is free", "port=0 takes any")) from None
    return bound


def url(bound: socket.socket) -> str:
    """Return the address of a socket as a URL."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(bound: socket.socket) -> bool:
    """Whether only programs of this machine can reach the socket."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


class _Protocol(H11Protocol):
    """uvicorn's HTTP protocol, with a limit of time for headers and for clients that do not read their answer.

    uvicorn's own limit holds between two requests alone: a client that opens a connection and sends nothing, or its
    headers byte by byte, would hold it for good.
    """

    client_seconds = 20.0
    _headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop_waiting()
        elif (before is None or before.response_complete) and self._headers_due is None:
            self._await_headers()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.loop.call_later(self.client_seconds, self.transport.abort)  # also what it has not read

    def send_400_response(self, msg: str) -> None:
        problem = {"place": "request", "found": "not HTTP/1.1", "expected": "HTTP/1.1", "repair": ""}
        content = {"error": msg, "error_type": "http", "problems": [problem]}
        body = json.dumps(content).encode()
        length = b"%d" % len(body)
        headers = [(b"content-type", b"application/json"), (b"content-length", length), (b"connection", b"close")]
        events = (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage())
        with suppress(h11.LocalProtocolError):  # an answer was under way
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _await_headers(self) -> None:
        self._headers_due = self.loop.call_later(self.client_seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None


class Server(uvicorn.Server):
    """Answers until it is told to end, then answers what it has accepted.

    Args:
        app: The ASGI application.
        limits: Its limits; those for a client also hold for its headers, and until it has read the answer.
        on_hangup: Called in a thread of its own at each SIGHUP.
    """

    def __init__(self, app: Any, limits: Limits, on_hangup: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=type("Protocol", (_Protocol,), {"client_seconds": limits.client_seconds}),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=int(limits.client_seconds + limits.deadline_seconds) + 1,
            )
        )
        self._on_hangup = on_hangup
        self._ended_by: int | None = None

    def answer(self, bound: socket.socket, batcher: Batcher) -> None:
        """Answer requests until the process gets SIGINT or SIGTERM; a second one ends at once.

        Batches are computed in this thread, which has loaded the model, and requests are read in another one. OpenMP
        has a pool of threads for each thread that computes, and where they are more than cores it lets them sleep
        between two products: a sentence would take twice as long.

        Raises:
            KeyboardInterrupt: It was SIGINT.
            Terminated: It was SIGTERM.
        """
        with self.capture_signals(), ThreadPoolExecutor(1, "mtl-http") as pool:
            reading = pool.submit(self._read, bound, batcher)
            try:
                batcher.run()
            except BaseException:
                self.force_exit = True  # who waits for a batch now gets none
                raise
            finally:
                self.should_exit = True
        reading.result()
        if self._ended_by == signal.SIGINT:
            raise KeyboardInterrupt
        if self._ended_by is not None:
            raise Terminated("terminated: all accepted requests were answered")

    def _read(self, bound: socket.socket, batcher: Batcher) -> None:
        try:
            self.run(sockets=[bound])
        finally:
            batcher.stop()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals inside the block; in uvicorn's own, SIGTERM would kill the process at its end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers: dict[int, Any] = {signal.SIGINT: self._end, signal.SIGTERM: self._end}
        if hasattr(signal, "SIGHUP"):
            handlers[signal.SIGHUP] = self._hangup
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.force_exit = self._ended_by is not None
        self._ended_by = self._ended_by or number
        self.should_exit = True

    def _hangup(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        threading.Thread(target=self._on_hangup, name="mtl-reload", daemon=True).start()
