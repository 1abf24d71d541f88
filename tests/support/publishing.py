"""A hub on a loopback port to publish to: repositories, branches, commits and large files, as the client sends them."""

from __future__ import annotations

import base64
import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import yaml

from tests.support.hub import answering

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "hf_writes"  # noqa: S105 - of a hub that lives as long as a test
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Repository:
    """A model on the hub.

    Attributes:
        private: Whether only `TOKEN` may read it.
        branches: The commit of each branch.
        commits: The files of each commit, by their paths.
    """

    private: bool
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Return the files of a branch or a commit."""
        return self.commits[self.branches.get(revision, revision)]


@dataclass
class PublishingHub:
    """A hub that models can be published to.

    Attributes:
        endpoint: Its address, for ``HF_ENDPOINT``.
        models: The repositories by id.
        large: The large files that were uploaded, by their SHA-256.
        downloads: Paths of files in the order of their download.
    """

    endpoint: str = ""
    models: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    downloads: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, body: bytes, token: str) -> Answer:
        """Return status, headers and body for a request."""
        if method in ("GET", "HEAD"):
            return self._read(method, path, token)
        if method == "PUT":
            return self._store(path.removeprefix("/large/"), body)
        if path == "/api/validate-yaml":
            return _validated(json.loads(body)["content"])
        if token != TOKEN:
            return _json({"error": "Forbidden: pass a token that may write"}, 403)
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            return _json({"objects": [self._upload_of(entry) for entry in json.loads(body)["objects"]]})
        owner, model, action, revision = path.removeprefix("/api/models/").split("/")
        return self._change(f"{owner}/{model}", action, unquote(revision), body)

    def _read(self, method: str, path: str, token: str) -> Answer:
        api = path.startswith("/api/models/")
        owner, model, _, *rest = [*path.removeprefix("/api/models/" if api else "/").split("/"), "", ""]
        name, revision = f"{owner}/{model}", unquote(rest[0]) or "main"
        repository = self.models.get(name)
        if repository is None or (repository.private and token != TOKEN):
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if api:
            siblings = [{"rfilename": file} for file in repository.commits[commit]]
            return _json({"id": name, "modelId": name, "sha": commit, "private": False, "siblings": siblings})
        file = "/".join(rest[1:-2])
        content = repository.commits[commit].get(file)
        if content is None:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        if method == "GET":
            self.downloads.append(file)
        return 200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}, content

    def _create(self, wanted: dict[str, Any]) -> Answer:
        name = f"{wanted['organization']}/{wanted['name']}"
        known = name in self.models
        if not known:
            self.models[name] = Repository(private=wanted.get("visibility") == "private" or bool(wanted.get("private")))
        return _json({"url": f"{self.endpoint}/{name}", "error": "exists"}, 409 if known else 200)

    def _upload_of(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Tell where a large file goes; nowhere if it is there already."""
        if entry["oid"] in self.large:
            return entry
        return {**entry, "actions": {"upload": {"href": f"{self.endpoint}/large/{entry['oid']}"}}}

    def _store(self, checksum: str, body: bytes) -> Answer:
        if hashlib.sha256(body).hexdigest() != checksum:
            return _json({"error": "another checksum"}, 400)
        self.large[checksum] = body
        return _json({})

    def _change(self, name: str, action: str, revision: str, body: bytes) -> Answer:
        repository = self.models[name]
        if action == "branch":
            known = revision in repository.branches
            repository.branches.setdefault(revision, repository.branches["main"])
            return _json({"error": "exists"}, 409 if known else 200)
        if action == "preupload":
            files = [entry["path"] for entry in json.loads(body)["files"]]
            modes = {file: "lfs" if file.endswith(".safetensors") else "regular" for file in files}
            return _json({"files": [{"path": f, "uploadMode": modes[f], "shouldIgnore": False} for f in files]})
        files_now = dict(repository.files(revision))
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files_now[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files_now[value["path"]] = self.large[value["oid"]]
        commit = hashlib.sha1(body).hexdigest()  # noqa: S324 - as git names a commit
        repository.commits[commit] = files_now
        repository.branches[revision] = commit
        return _json({"commitUrl": f"{self.endpoint}/{name}/commit/{commit}", "commitOid": commit})


@contextmanager
def publishing_hub() -> Iterator[PublishingHub]:
    """Run an empty hub until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self._chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self._whole()
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, headers, content = hub.answer(self.command, self.path.split("?")[0], body, token)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content)), "Connection": "close"}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_HEAD = do_GET = do_POST = do_PUT = _serve  # noqa: N815 - the names that http.server looks for

        def _whole(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _chunks(self) -> bytes:
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def log_message(self, *_: object) -> None:
            """Keep the terminal quiet."""

    with answering(Handler) as url:
        hub = PublishingHub(url)
        yield hub


def _validated(card: str) -> Answer:
    """Accept a card whose front matter is YAML with the keys of each result that the hub asks for."""
    try:
        content = yaml.safe_load(card.split("---")[1])
        for result in content.get("model-index", [{}])[0].get("results", ()):
            _ = result["task"]["type"], result["dataset"]["type"], result["dataset"]["name"]
            _ = [(metric["type"], metric["value"]) for metric in result["metrics"]]
    except (yaml.YAMLError, LookupError, TypeError) as error:
        return _json({"errors": [{"message": f"{type(error).__name__}: {error}"}], "warnings": []}, 400)
    return _json({"errors": [], "warnings": []})


def _json(value: Any, status: int = 200) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()
