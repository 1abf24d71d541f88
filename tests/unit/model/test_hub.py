"""The hub: what is cached needs no network, what is not fails fast with the ways out, and no pickle is fetched."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from mtl.base.errors import ModelError
from mtl.model import hub
from mtl.model.sources import BackboneSpec, locate
from tests.support.hub import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "acme/tiny-sentences"


@pytest.fixture(autouse=True)
def _online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def published(tiny_folder: Path, tmp_path: Path) -> Path:
    """A model as authors publish it: with pickles, code and other runtimes' files beside the safetensors."""
    folder = tmp_path / "published"
    shutil.copytree(tiny_folder, folder)
    (folder / "onnx").mkdir()
    for name in ("pytorch_model.bin", "modeling.py", "onnx/model.onnx", "onnx/config.json"):
        (folder / name).write_bytes(b"x")
    return folder


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address that refuses: the port is bound, nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def _ways_out(cache: Path, reason: str) -> str:
    return (
        "Model: 1 problem\n"
        "  backbone.name\n"
        f"      found:    {NAME} is not in the cache {cache}, and {reason}\n"
        "      expected: the whole model in the cache, or a hub that can be reached\n"
        "      repair:   one of these:\n"
        "        - backbone=minilm (its weights come in a Python package; no hub needed)\n"
        "        - backbone.path=<folder> with a copy of the model, made on a machine with access to the hub by\n"
        f"          hf download {NAME} --local-dir <folder>"
    )


def test_unreachable_hub_fails_fast_with_the_ways_out(
    closed_port: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", closed_port)
    start = time.monotonic()
    with pytest.raises(ModelError) as caught:
        locate(BackboneSpec(name=NAME))
    assert time.monotonic() - start < 8
    reason = f"{closed_port} cannot be reached (ConnectError: [Errno 111] Connection refused)"
    assert str(caught.value) == _ways_out(tmp_path / "cache", reason)


def test_name_server_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: released.wait(30) or [])
    monkeypatch.setattr("mtl.base.hub.PROBE_SECONDS", 1.2)
    start = time.monotonic()
    with pytest.raises(ModelError) as caught:
        hub.fetch(NAME)
    released.set()
    assert time.monotonic() - start < 3
    reason = "http://hub.invalid cannot be reached (TimeoutError: no answer within 1 seconds)"
    assert str(caught.value) == _ways_out(tmp_path / "cache", reason)


def test_offline_mode_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        hub.fetch(NAME)
    assert str(caught.value) == _ways_out(tmp_path / "cache", "HF_HUB_OFFLINE is set")


def test_only_what_a_model_needs_is_downloaded_weights_last(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve({NAME: published}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        folder = locate(BackboneSpec(name=NAME))
    assert sorted(server.downloads) == [
        "1_Pooling/config.json",
        "2_Normalize/config.json",
        "config.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert server.downloads[-1] == "model.safetensors"
    assert (folder / "model.safetensors").read_bytes() == (published / "model.safetensors").read_bytes()


def test_cached_model_needs_no_hub(published: Path, closed_port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve({NAME: published}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        folder = hub.fetch(NAME)
    monkeypatch.setenv("HF_ENDPOINT", closed_port)
    assert hub.fetch(NAME) == folder


def test_interrupted_download_is_taken_up_again(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve({NAME: published}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        (hub.fetch(NAME) / "model.safetensors").unlink()
        server.downloads.clear()
        assert (hub.fetch(NAME) / "model.safetensors").is_file()
    assert set(server.downloads) <= {"model.safetensors"}


def test_download_that_breaks_off_says_so(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object, **kwargs: object) -> str:
        if kwargs.get("local_files_only"):
            raise errors.LocalEntryNotFoundError("not cached")
        raise OSError("connection reset")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    with serve({NAME: published}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        with pytest.raises(ModelError) as caught:
            hub.fetch(NAME)
    assert str(caught.value) == (
        "Model: 1 problem\n"
        "  backbone.name\n"
        f"      found:    the download of {NAME} broke off: OSError: connection reset\n"
        "      expected: a download to its end\n"
        "      repair:   run it again: it continues where it stopped"
    )


def test_plain_encoder_in_the_cache_serves_without_a_hub(
    published: Path, closed_port: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (published / "modules.json").unlink()
    with serve({NAME: published}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        folder = hub.fetch(NAME)
    monkeypatch.setenv("HF_ENDPOINT", closed_port)
    assert hub.fetch(NAME) == folder
    assert caplog.messages == [
        f"{folder} has no modules.json: taken as a plain encoder, because the hub cannot be asked"
    ]


def test_unknown_model(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve({NAME: published}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        with pytest.raises(ModelError) as caught:
            hub.fetch("acme/misspelt")
    assert str(caught.value) == (
        "Model: 1 problem\n"
        "  backbone.name\n"
        f"      found:    {server.endpoint} shows no model acme/misspelt: there is none, or it is private or gated\n"
        "      expected: a model that you may read\n"
        "      repair:   check the spelling; for a private or gated model run `hf auth login` first"
    )


def test_unknown_revision(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve({NAME: published}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        with pytest.raises(ModelError) as caught:
            hub.fetch(NAME, revision="v9")
    assert str(caught.value) == (
        "Model: 1 problem\n"
        "  backbone.revision\n"
        f"      found:    {NAME} has no revision 'v9'\n"
        f"      expected: a branch, a tag or a commit of {server.endpoint}/{NAME}"
    )


def test_pickles_are_refused_before_any_download(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (published / "model.safetensors").unlink()
    with serve({NAME: published}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        with pytest.raises(ModelError) as caught:
            hub.fetch(NAME)
    assert server.downloads == []
    assert str(caught.value) == (
        "Model: 1 problem\n"
        "  backbone.name\n"
        f"      found:    {NAME} has no model.safetensors on the hub, only pickles, which can run code when they are "
        "loaded\n"
        "      expected: weights in the safetensors format\n"
        "      repair:   look for a revision with safetensors (`backbone.revision=refs/pr/<number>`), or take another "
        "model"
    )


def test_what_is_no_hub_id() -> None:
    with pytest.raises(ModelError) as caught:
        hub.fetch("models/my encoder/v2")
    assert str(caught.value) == (
        "Model: 1 problem\n"
        "  backbone.name\n"
        "      found:    'models/my encoder/v2'\n"
        "      expected: a model's id on the hub, owner/name\n"
        "      repair:   a folder goes to backbone.path"
    )


def test_weights_of_dense_modules_come_before_those_of_the_encoder(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (published / "3_Dense").mkdir()
    for name in ("config.json", "model.safetensors"):
        (published / "3_Dense" / name).write_bytes(name.encode())  # equal contents would be one blob
    with serve({NAME: published}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        folder = hub.fetch(NAME)
        dense = folder / "3_Dense" / "model.safetensors"
        dense.unlink()  # as in a snapshot of a program that does not know it
        assert hub.fetch(NAME) == folder
    assert dense.is_file()
    assert server.downloads.index("3_Dense/model.safetensors") < server.downloads.index("model.safetensors")
