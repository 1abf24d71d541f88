"""What stands before every endpoint: Host header, bearer token, limits of size and time, and the error shape."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from starlette.responses import Response

from mtl.base.errors import Problem, printable

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from mtl.serving.metrics import Metrics

OPEN = frozenset({"/", "/page.css", "/page.js", "/health", "/ready"})
"""Paths that need no token: they show nothing of the model."""
RETRY = {"Retry-After": "1"}
_CLOSE = {"Connection": "close"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask for."""

    body_bytes: int = 2_000_000
    texts: int = 256
    client_seconds: float = 20.0  # the most seconds that a client may take to send a body
    deadline_seconds: float = 30.0  # the most seconds that a request may wait for its answer
    # All of a text is tokenized before it is truncated: some megabytes take seconds and hold up the requests behind it.
    text_characters: int = 100_000


class ApiError(Exception):
    """An error that a client sees; its kind is a word for programs: ``validation``, ``overloaded``."""

    def __init__(
        self, status: int, kind: str, problems: Problem | Iterable[Problem], headers: dict[str, str] | None = None
    ) -> None:
        self.status = status
        self.kind = kind
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        self.headers = headers or {}
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """All problems in one line."""
        return "; ".join(
            f"{problem.place}: found {problem.found}, expected {problem.expected}"
            + (f" ({problem.repair})" if problem.repair else "")
            for problem in self.problems
        )

    def response(self) -> Response:
        """Return the answer; its body is ASCII, so that it can be sent whatever the client had sent."""
        problems = [
            asdict(problem) | {"place": printable(problem.place), "found": printable(problem.found)}
            for problem in self.problems
        ]
        content = {"error": printable(self.message), "error_type": self.kind, "problems": problems}
        return Response(json.dumps(content), self.status, self.headers, "application/json")


def shutdown() -> ApiError:
    """Return the error for a request that comes after the end of the server has begun, or is cut off by it."""
    return ApiError(503, "unavailable", Problem("server", "a shutdown", "requests before it", "try again"), RETRY)


@dataclass(frozen=True, slots=True, eq=False)
class Guard:
    """An ASGI application that checks a request, reads its body, and hands it on whole."""

    app: ASGIApp  # what answers the requests that pass
    limits: Limits
    metrics: Metrics  # counts every request
    token: str | None = field(repr=False)  # what clients must send as ``Authorization: Bearer …``; None: nothing
    # The names that may stand in the header ``Host``, against pages that rebind their name to this address (DNS
    # rebinding), in lower case; None: any.
    hosts: Collection[str] | None
    paths: Collection[str]  # the paths of the endpoints, by which requests are counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 499  # the client went away

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = dict(scope["headers"])  # of a header that stands twice the last one
        try:
            self._check(scope, headers)
            if scope["method"] in ("POST", "PUT", "PATCH"):
                body = await self._body(headers, receive)
                if body is not None:
                    await self.app(scope, _replay(body, receive), counted)
            else:
                await self.app(scope, receive, counted)
        except ApiError as error:
            await error.response()(scope, receive, counted)
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.request(path, status, time.perf_counter() - start)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1")
        if self.hosts is not None and _name(host) not in self.hosts:
            expected = f"one of {', '.join(sorted(self.hosts))}"
            problem = Problem("header Host", repr(host), expected, "hosts=NAME when the server starts")
            raise ApiError(403, "host", problem)
        if self.token is None or scope["path"] in OPEN:
            return
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self.token.encode()):
            found = "a wrong token" if token else "no token"
            problem = Problem("header Authorization", found, "Bearer with the token of the server")
            raise ApiError(401, "authorization", problem, {"WWW-Authenticate": "Bearer"})

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """Read a body; None if the client went away."""
        limit = self.limits.body_bytes
        length = headers.get(b"content-length", b"0")
        too_large = length.isdigit() and int(length) > limit
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.client_seconds):
                while not (too_large and b"100-continue" in headers.get(b"expect", b"").lower()):
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if too_large or len(body) > limit:  # read on without keeping it: else the answer is lost
                        too_large = True
                        body.clear()
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            if not too_large:
                expected = f"all of it within {self.limits.client_seconds:g} s"
                problem = Problem("body", f"{len(body):,} bytes so far", expected)
                raise ApiError(408, "slow_client", problem, _CLOSE) from None
        if too_large:
            expected = f"at most {limit:,} bytes"
            problem = Problem("body", f"more than {limit:,} bytes", expected, "send fewer texts at once")
            raise ApiError(413, "too_large", problem, _CLOSE)
        if kind != "application/json":
            raise ApiError(415, "validation", Problem("header Content-Type", repr(kind), "application/json"))
        try:
            body.decode("utf-8")
        except UnicodeDecodeError as error:
            found = f"bytes that are not UTF-8 at position {error.start:,}"
            raise ApiError(400, "validation", Problem("body", found, "JSON in UTF-8")) from None
        return bytes(body)


def _name(host: str) -> str:
    """Return the name of a Host header without its port, in lower case."""
    host = host.strip().lower()
    return host.partition("]")[0] + "]" if host.startswith("[") else host.rpartition(":")[0] or host


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body that was read, then what else there is."""
    read = False

    async def again() -> Message:
        nonlocal read
        if read:
            return await receive()
        read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
