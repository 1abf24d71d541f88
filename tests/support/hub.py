"""A hub on a loopback port that speaks as much of the protocol as the client needs to list and download a model."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """The models that a hub has, and what it was asked for.

    Attributes:
        endpoint: Its address, for ``HF_ENDPOINT``.
        models: Folders by id.
        downloads: Paths of files in the order of their download.
    """

    endpoint: str
    models: dict[str, Path]
    downloads: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body for a path."""
        for name, folder in self.models.items():
            if path.startswith(f"/api/models/{name}/tree/"):
                return _json(_tree(folder))
            if path.startswith(f"/api/models/{name}/revision/") and not path.endswith(("main", COMMIT)):
                return 404, {"X-Error-Code": "RevisionNotFound"}, b""
            if path.startswith(f"/api/models/{name}"):
                siblings = [{"rfilename": entry["path"]} for entry in _tree(folder)]
                return _json({"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings})
            prefix = f"/{name}/resolve/{COMMIT}/"
            if path.startswith(prefix):
                body = (folder / path.removeprefix(prefix)).read_bytes()
                return 200, {"ETag": f'"{_digest(body)}"', "X-Repo-Commit": COMMIT}, body
        return 404, {"X-Error-Code": "RepoNotFound"}, b""


@contextmanager
def serve(models: dict[str, Path]) -> Iterator[FakeHub]:
    """Run a hub with these models until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            path = self.path.split("?")[0]
            status, headers, body = hub.answer(path)
            if with_body and "/resolve/" in path:
                hub.downloads.append(path.split(f"{COMMIT}/")[-1])
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep the terminal quiet."""

    with answering(Handler) as url:
        hub = FakeHub(url, models)
        yield hub


@contextmanager
def answering(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Answer on a free port of this machine inside the block; provide the URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _tree(folder: Path) -> list[dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        {
            "type": "file",
            "path": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "oid": _digest(path.read_bytes()),
        }
        for path in files
    ]


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()  # noqa: S324 - as git names a blob


def _json(value: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()
