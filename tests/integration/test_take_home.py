"""The page docs/take_home.md, step by step: an empty folder and an environment with the wheel and its packages."""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import shutil
import socket
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest

from mtl import MultiTaskModel
from tests.support.commands import ROOT
from tests.support.publishing import TOKEN, publishing_hub
from tests.support.runs import rows, write_csv
from tests.support.serving import until
from tests.support.wheel import build_wheel, virtual_environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = (ROOT / "docs" / "take_home.md").read_text(encoding="utf-8")
PREPARED = ("python -m venv", ". .venv", "pip install", "hf auth login")
"""The steps that the test takes in another way: it has no package index and no hub to log in to."""
QUICK = "backbone=tiny trainer=cpu trainer.max_epochs=1 retention.path=null evaluation.figures=false"
EXACT = "precision=fp32 device=cpu"
TEXT = "Battery died after a week"


@dataclass(frozen=True)
class Shell:
    """The folder in which the user works, and the environment of its programs."""

    folder: Path
    variables: dict[str, str]

    def run(self, *command: str, folder: Path | None = None) -> str:
        done = subprocess.run(
            command, cwd=folder or self.folder, env=self.variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    @contextmanager
    def serving(self, line: str, url: str) -> Iterator[None]:
        with subprocess.Popen(line.split(), cwd=self.folder, env=self.variables) as server:
            try:
                until(lambda: server.poll() is not None or _answers(url), seconds=300)
                assert server.poll() is None, "the server ended"
                yield
                server.terminate()
                assert server.wait(60) == 143
            finally:
                server.kill()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def shell(tmp_path: Path, cache_folder: Path) -> Iterator[Shell]:
    programs = virtual_environment(tmp_path / "environment", build_wheel(tmp_path))
    left_out = ("PYTHONPATH", "HF_HUB_OFFLINE", "MTL_SERVE_TOKEN", "VIRTUAL_ENV")
    variables = {name: value for name, value in os.environ.items() if name not in left_out}
    variables |= {"PATH": f"{programs}:{os.environ['PATH']}", "COLUMNS": "120", "MTL_CACHE_DIR": str(cache_folder)}
    variables |= {"HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    folder = tmp_path / "here"
    folder.mkdir()
    with publishing_hub() as hub:
        yield Shell(folder, {**variables, "HF_ENDPOINT": hub.endpoint})


def steps() -> dict[str, list[str]]:
    """Return the commands and the Python blocks of the page by the heading above them."""
    found: dict[str, list[str]] = {}
    for section in re.split(r"^#+ ", PAGE, flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        blocks = re.findall(r"^```(sh|py)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        lines = [step for kind, block in blocks for step in (block.splitlines() if kind == "sh" else [block])]
        found[title] = [line for line in lines if not line.startswith(PREPARED)]
    return found


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_the_whole_way(shell: Shell) -> None:
    first, train, export, serve, publish = steps().values()
    assert first == []
    write_csv(shell.folder / "topics.csv", rows("classification", 30))
    write_csv(shell.folder / "moods.csv", rows("sentiment", 30))
    new = [text for text, _ in rows("sentiment", 5, start=100)]
    (shell.folder / "new.csv").write_text("\n".join(["text", *new]) + "\n", encoding="utf-8")
    assert str(ROOT) not in shell.run("python", "-c", "import mtl; print(mtl.__file__)")

    learn, tell, label = train
    shell.run("bash", "-c", f"{learn} {QUICK}")
    told = shell.run("bash", "-c", f"{tell} {EXACT}").splitlines()[-1]
    shell.run("bash", "-c", f"{label} {EXACT}")
    model = MultiTaskModel.from_pretrained(shell.folder / "outputs" / "first", device="cpu")
    expected = model.predict(TEXT)
    assert told.split("  ")[0] == TEXT
    assert all(prediction.label in told for prediction in expected.values())
    with (shell.folder / "labelled.csv").open(encoding="utf-8", newline="") as file:
        labelled = list(csv.DictReader(file))
    for task, predictions in model.predict(new).items():
        assert [row[task] for row in labelled] == [prediction.label for prediction in predictions]

    shell.run("bash", "-c", *export)
    exported = shell.folder / "exported"
    (example,) = re.findall(r"^```python\n(.*?)^```", (exported / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    alone = f"import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'mtl')))\n{example}"
    printed = shell.run("python", "-c", alone, folder=exported)
    for task, predictions in model.predict([TEXT, "Great phone"]).items():
        assert f"{task} {[prediction.label for prediction in predictions]}" in printed

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    start, curl, openai, inference = (step.replace("8000", port) for step in serve)
    with shell.serving(f"{start} {EXACT}", f"http://127.0.0.1:{port}"):
        (answer,) = json.loads(shell.run("bash", "-c", curl))
        vector = json.loads(shell.run("python", "-c", openai))
        *scores, embedding = map(ast.literal_eval, shell.run("python", "-c", inference).splitlines())
    for (task, prediction), pairs in zip(expected.items(), scores, strict=True):
        assert answer[task]["label"] == pairs[0][0] == prediction.label
        assert answer[task]["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-5)
        assert dict(pairs) == pytest.approx(prediction.probabilities, abs=1e-5)
    for received in (vector, *embedding):
        np.testing.assert_allclose(received, model.encode(TEXT), atol=1e-5)

    (push,) = publish
    assert "/me/first/commit/" in shell.run("python", "-c", push)
