"""The command `serve` as a process: what it refuses, its signals, and what it answers at its end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import httpx
import pytest

from mtl import MultiTaskModel
from mtl.serving.running import bind, is_loopback
from tests.support.commands import outside, run
from tests.support.serving import until, write_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("run") / "model", tiny_folder)


@contextmanager
def process(folder: Path, *arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "mtl.serve", f"model={folder}", "port=0", "device=cpu", *arguments]
    started = subprocess.Popen(
        command, env={**outside(), **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        assert line.startswith("serving "), line or started.communicate()[1]
        url = line.split()[-1]
        until(lambda: reachable(url))
        yield started, url
    finally:
        started.kill()
        started.communicate()


def reachable(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    ("number", "code", "last"),
    [
        (signal.SIGTERM, 143, "terminated: all accepted requests were answered"),
        (signal.SIGINT, 130, "interrupted"),
    ],
)
def test_a_signal_in_the_middle_lets_accepted_requests_be_answered(
    folder: Path, number: signal.Signals, code: int, last: str
) -> None:
    text = "word " * 40
    with process(folder, "batch_tokens=1", "queue=2000") as (started, url), ThreadPoolExecutor(8) as pool:
        requests = [pool.submit(httpx.post, f"{url}/predict", json={"inputs": [text] * 200}) for _ in range(8)]
        until(lambda: "mtl_batch_requests_count 0" not in httpx.get(f"{url}/metrics").text)
        started.send_signal(number)
        answers = [request.result() for request in requests]
        assert [answer.status_code for answer in answers] == [200] * 8
        assert all(len(answer.json()) == 200 for answer in answers)
        _, err = started.communicate(timeout=60)
    assert started.returncode == code
    assert err.splitlines()[-1] == last
    assert "Traceback" not in err


def test_a_hangup_loads_the_folder_again(tiny_folder: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", tiny_folder, seed=1)
    with process(folder, "precision=fp32") as (started, url):
        before = httpx.post(f"{url}/predict", json={"inputs": "a"}).json()
        write_model(folder, tiny_folder, seed=2)
        started.send_signal(signal.SIGHUP)
        until(lambda: 'mtl_reloads_total{result="loaded"} 1' in httpx.get(f"{url}/metrics").text)
        after = httpx.post(f"{url}/predict", json={"inputs": "a"}).json()
        expected = MultiTaskModel.from_pretrained(folder, device="cpu").predict("a")
        assert before != after
        assert after["mood"]["probabilities"] == pytest.approx(expected["mood"].probabilities, abs=1e-5)


def test_the_token_of_the_environment(folder: Path) -> None:
    with process(folder, MTL_SERVE_TOKEN="s3cret") as (_, url):  # noqa: S106
        assert httpx.get(f"{url}/info").status_code == 401
        assert httpx.get(f"{url}/info", headers={"Authorization": "Bearer s3cret"}).status_code == 200


def test_wrong_arguments_are_named_together(folder: Path) -> None:
    outcome = run("mtl.serve", f"model={folder}", "port=70000", "queue=0", "deadline=-1", "token=3")
    assert outcome.code == 2
    for place in ("port", "queue", "deadline"):
        assert f"\n  {place}\n" in outcome.err
    outcome = run("mtl.serve", f"model={folder}", "max_texts=10", "queue=5", "token=a b")
    assert outcome.err == (
        "Configuration: 2 problems\n"
        "  max_texts\n"
        "      found:    10, and a queue of 5\n"
        "      expected: at most the length of the queue\n"
        "      repair:   queue=10\n"
        "  token\n"
        "      found:    characters that no header carries\n"
        "      expected: printable ASCII without spaces\n"
    )


def test_levels_and_examples_of_the_command_line(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "train.csv"
    table.write_text("text,label\nGreat phone,price\nBattery died,=other\n", encoding="utf-8")
    arguments = ("coverage=0.8", "max_risk=0.1", f"examples={table}", "label_column=topic:label")
    with process(folder, *arguments, "precision=fp32") as (started, url):
        assert started.stdout is not None
        assert started.stdout.readline() == f"2 examples, 0.0 MB of embeddings, from {table}\n"
        answer = httpx.post(f"{url}/predict?nearest=2", json={"inputs": "Great phone"}).json()
    expected = MultiTaskModel.from_pretrained(folder, device="cpu").predict("Great phone", coverage=0.8, max_risk=0.1)
    assert answer["topic"]["set"] == list(expected["topic"].label_set or ())
    assert answer["topic"]["abstain"] is expected["topic"].abstain
    assert [near["label"] for near in answer["topic"]["nearest"]] == ["price", "=other"]


def test_wrong_examples_are_reported_before_the_model_is_loaded(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "model")
    (broken / "heads.safetensors").write_bytes(b"broken")  # it would be an error as well
    table = tmp_path / "train.csv"
    table.write_text("text,label\nGreat phone,\n,price\n", encoding="utf-8")
    outcome = run("mtl.serve", f"model={broken}", "port=0", f"examples={table}")
    assert (outcome.code, f"{table}:3" in outcome.err, "safetensors" in outcome.err) == (2, True, False)
    outcome = run("mtl.serve", f"model={broken}", "port=0", "label_column=label", "coverage=1", "max_risk=nan")
    assert outcome.code == 2
    for place in ("coverage", "max_risk"):
        assert f"\n  {place}\n" in outcome.err
    outcome = run("mtl.serve", f"model={broken}", "port=0", "label_column=label", "text_column=body")
    assert outcome.err == (
        "Configuration: 2 problems\n"
        "  text_column\n"
        "      found:    'body'\n"
        "      expected: only with examples=\n"
        "  label_column\n"
        "      found:    'label'\n"
        "      expected: only with examples=\n"
    )


def test_a_missing_extra_is_reported_with_its_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtl.serve.find_spec", lambda name: None if name == "uvicorn" else find_spec(name))
    outcome = run("mtl.serve", f"model={folder}")
    assert (outcome.code, outcome.err) == (
        2,
        "Configuration: 1 problem\n"
        "  the server\n"
        "      found:    no package uvicorn\n"
        "      expected: the extra serve\n"
        "      repair:   pip install 'mtl[serve]'\n",
    )


def test_a_port_in_use_is_reported_before_the_model_is_loaded(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = run("mtl.serve", f"model={folder}", f"port={port}")
    assert (outcome.code, outcome.err) == (
        2,
        "Configuration: 1 problem\n"
        "  port\n"
        f"      found:    127.0.0.1:{port}: {os.strerror(98)}\n"
        "      expected: a port that is free\n"
        "      repair:   port=0 takes any\n",
    )


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    outcome = run("mtl.serve", f"model={tmp_path}")
    assert outcome.code == 2
    assert "a saved model, a folder with mtl.json" in outcome.err


def test_loopback_addresses() -> None:
    with bind("127.0.0.1", 0) as near, bind("0.0.0.0", 0) as far:  # noqa: S104
        assert [is_loopback(near), is_loopback(far)] == [True, False]
