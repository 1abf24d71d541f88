"""The command `predict`: where sentences come from, where predictions go, and what it imports."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
import torch

from mtl import MultiTaskModel
from mtl.model.encoder import Encoder
from mtl.model.loading import load_tokenizer
from mtl.model.saved import HeadSpec, TaskHead, build_network, save_model
from tests.support.commands import outside, run

if TYPE_CHECKING:
    from pathlib import Path

LABELS = {"topic": ["price", "größe; =1+1", "-other"], "mood": ["0", "1"]}
TEXTS = ["hello;=cmd|' /C calc'!A0", "=1+1", 'a "quoted", long ' + "long " * 100 + "text", "größe 中文"]


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    tasks = {name: TaskHead(labels, HeadSpec("linear")) for name, labels in LABELS.items()}
    folder = tmp_path_factory.mktemp("model") / "model"
    save_model(folder, build_network(Encoder.from_folder(tiny_folder), tasks), load_tokenizer(tiny_folder), tasks, "")
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> MultiTaskModel:
    return MultiTaskModel.from_pretrained(folder, device="cpu")


def predict(folder: Path, *arguments: str) -> str:
    outcome = run("mtl.predict", f"model={folder}", "device=cpu", "precision=fp32", *arguments)
    assert outcome.code == 0, outcome.err  # a slow machine shows its progress there
    return outcome.out


def test_texts_are_quoted_so_that_no_semicolon_divides_them(folder: Path, tmp_path: Path) -> None:
    predict(folder, f"output={tmp_path / 'x.csv'}", *TEXTS)
    written = (tmp_path / "x.csv").read_text(encoding="utf-8")
    rows = list(csv.reader(io.StringIO(written)))
    assert [row[0] for row in rows] == ["text", TEXTS[0], "'=1+1", *TEXTS[2:]]
    unquoted = re.sub(r'"([^"]|"")*"', "", written)
    assert set(unquoted) <= set("0123456789.,e-\r\n")


def test_all_formats_hold_the_same(folder: Path, tmp_path: Path, model: MultiTaskModel) -> None:
    expected = model.predict(TEXTS)
    for name in ("x.csv", "x.jsonl", "x.parquet"):
        predict(folder, f"output={tmp_path / name}", *TEXTS)
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()]
    table = pq.read_table(tmp_path / "x.parquet").to_pylist()
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        cells = [
            [float(cell) for cell in row if re.fullmatch(r"[0-9.e-]*[.][0-9.e-]*", cell)] for row in csv.reader(file)
        ]
    for at, text in enumerate(TEXTS):
        assert lines[at]["text"] == table[at]["text"] == text
        flat = []
        for task, predictions in expected.items():
            assert lines[at][task]["label"] == table[at][task] == predictions[at].label
            for label, value in predictions[at].probabilities.items():
                assert lines[at][task]["probabilities"][label] == pytest.approx(value, abs=1e-6)
                assert table[at][f"p({task}={label})"] == pytest.approx(value, abs=1e-6)
                flat.append(value)
        assert cells[at + 1] == pytest.approx(flat, abs=1e-6)


def test_from_standard_input_to_standard_output(
    folder: Path, model: MultiTaskModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "\n".join(["good phone", "", "größe", ""]).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), encoding="ascii"))
    out = [json.loads(line) for line in predict(folder, "input=-", "output=-", "task=mood").splitlines()]
    assert [row["text"] for row in out] == ["good phone", "größe"]
    assert [set(row) for row in out] == [{"text", "mood"}] * 2
    assert [row["mood"]["label"] for row in out] == [
        each.label for each in model.predict(["good phone", "größe"])["mood"]
    ]


@pytest.mark.parametrize(
    ("content", "place", "found"),
    [(b"\n \n", "standard input", "no sentence"), (b"a\n\xff\n", "standard input:2", "bytes that are not UTF-8")],
)
def test_standard_input_that_is_none(
    content: bytes, place: str, found: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    outcome = run("mtl.predict", f"model={folder}", "input=-")
    assert outcome.code == 2
    assert f"  {place}\n      found:    {found}" in outcome.err


def test_a_row_is_a_line_where_no_terminal_is(folder: Path) -> None:
    lines = predict(folder, *TEXTS).splitlines()
    assert len(lines) == 1 + len(TEXTS)
    assert lines[0].split() == ["sentence", "topic", "mood"]
    assert lines[3].startswith('a "quoted", long long')
    assert lines[3].rstrip()[-1].isdigit()


def test_an_unknown_task(folder: Path) -> None:
    outcome = run("mtl.predict", f"model={folder}", "task=mod", "good")
    assert outcome.code == 2
    assert outcome.err == (
        "Configuration: 1 problem\n  task\n      found:    'mod'\n      expected: topic, mood\n"
        "      repair:   did you mean mood?\n"
    )


_IMPORTS = """
import sys
from mtl import predict

def heavy():
    slow = ("lightning", "torchmetrics", "hydra", "omegaconf", "datasets", "pandas", "pyarrow")
    return [name for name in slow if name in sys.modules]

try:
    predict.main(["model=nowhere", "good"])
except Exception as error:
    assert "no such folder" in str(error), error
assert "torch" not in sys.modules
predict.main([f"model={sys.argv[1]}", "device=cpu", "good"])
print(heavy())
"""


def test_what_is_imported_for_a_sentence(folder: Path) -> None:
    """A slip in the model's name costs no import of torch; a prediction none of training's packages."""
    command = [sys.executable, "-c", _IMPORTS, str(folder)]
    done = subprocess.run(command, env=outside(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
