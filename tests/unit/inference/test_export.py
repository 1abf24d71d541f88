"""Export: other programs get the same answers from the exported folder, and one that answers otherwise is not kept."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from mtl import MultiTaskModel
from mtl.base.errors import ModelError
from mtl.evaluation.predictions import Predictions, predictions_path, write_predictions
from mtl.inference import export as exporting
from mtl.inference.agreement import Answers, Graph, compare
from mtl.inference.export import export_encoder, export_graph
from mtl.inference.graph import write_graph
from mtl.model.encoder import Encoder
from mtl.model.head_specs import FirstStageSpec, MultiStageSpec
from mtl.model.loading import load_tokenizer
from mtl.model.saved import HeadSpec, SavedModel, TaskHead, build_network, save_model
from tests.support.commands import run as command
from tests.support.texts import TEXTS

if TYPE_CHECKING:
    from pathlib import Path

TREE = {"bad": ["late", "lost"], "good": ["fine"]}
TASKS = {
    "topic": TaskHead(["price", "größe", "other"], HeadSpec("linear"), temperature=0.5, bias=[0.3, -0.2, 0.0], tau=1.0),
    "reason": TaskHead(["late", "fine", "lost"], MultiStageSpec("multi_stage", TREE, "mlp", hidden=7), temperature=2.0),
    "place": TaskHead(
        ["late", "fine", "lost"],
        MultiStageSpec("multi_stage", TREE, "linear", first_stage=FirstStageSpec("mood", {"good": "well"})),
    ),
    "mood": TaskHead(["bad", "well"], HeadSpec("mlp", hidden=9, scale=20.0)),
}
GRAPHS = {"onnx": ("onnxruntime", "model.onnx"), "openvino": ("openvino", "model.xml", "model.bin")}
"""The package that runs a format, and the files of its graph."""
ROWS = [text for text in TEXTS if text.strip()]


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with every kind of head and the predictions of two splits. Do not write into it."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("run")
    network = build_network(Encoder.from_folder(tiny_folder), TASKS)
    save_model(folder / "model", network, load_tokenizer(tiny_folder), TASKS, "")
    labels = TASKS["topic"].labels
    true = [labels[at % 3] for at in range(len(ROWS))]
    shares = np.full((len(ROWS), 3), 1 / 3)
    for split in ("val", "test"):
        rows = Predictions(labels, ROWS, true, true, shares, [f"x.csv:{at}" for at in range(len(ROWS))])
        write_predictions(predictions_path(folder, "topic", split), rows)
    return folder


@pytest.fixture(scope="module", params=GRAPHS)
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The run as a graph, exported by the command. Do not write into it."""
    if importlib.util.find_spec(GRAPHS[request.param][0]) is None:
        pytest.skip("not installed")
    output = tmp_path_factory.mktemp("export") / str(request.param)
    ended = command("mtl.export", f"model={run}", f"output={output}", f"format={request.param}")
    assert ended.code == 0, ended.err
    lines = [line.split() for line in ended.out.splitlines()]
    assert [line[:5] for line in lines[1:7]] == [
        f"{rows} of {tokens} tokens".split() if rows == "1 row" else f"{rows} of up to".split()
        for tokens in (3, 64, 128)
        for rows in ("1 row", "5 rows")
    ]
    assert "topic, test: macro-F1 " in ended.out
    assert ended.out.endswith(f"written to {output}\n")
    return output


def answers(folder: Path, texts: list[str]) -> Answers:
    """Return what a program answers that has the exported folder alone."""
    (graph,) = (path for path in folder.iterdir() if path.suffix in (".onnx", ".xml"))
    outputs = Graph(graph).run_texts(texts, Tokenizer.from_file(str(folder / "tokenizer.json")))
    return Answers.of_graph(outputs, json.loads((folder / "model.json").read_text(encoding="utf-8"))["labels"])


def test_softmax_and_greatest_of_the_logits_are_our_predictions(run: Path, exported: Path) -> None:
    model, found = MultiTaskModel.from_pretrained(run, device="cpu"), answers(exported, list(TEXTS))
    np.testing.assert_allclose(found.embeddings, model.encode(TEXTS), atol=1e-5)
    predictions, probabilities = model.predict(TEXTS), model.predict_proba(TEXTS)
    for task, labels in model.labels.items():
        np.testing.assert_allclose(found.probabilities[task], probabilities[task], atol=1e-5)
        assert [labels[best] for best in found.labels[task]] == [each.label for each in predictions[task]]
    calibrated, raw = probabilities["topic"], model.predict_proba(TEXTS, calibrated=False)["topic"]
    assert np.abs(calibrated - raw).max() > 0.01  # else nothing shows that the calibration is in the graph


def test_the_folder_says_all_that_a_program_needs(exported: Path) -> None:
    names = {path.name for path in exported.iterdir()}
    assert names == {*GRAPHS[exported.name][1:], "model.json", "tokenizer.json", "README.md"}
    about = json.loads((exported / "model.json").read_text(encoding="utf-8"))
    assert about == {
        "labels": {task: head.labels for task, head in TASKS.items()},
        "outputs": {task: f"logits_{task}" for task in TASKS},
        "embedding_size": 32,
        "max_length": 128,
        "prompt": "",
        "pad_id": 1,
    }


def test_the_example_runs_without_torch_and_without_this_package(run: Path, exported: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", (exported / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(example.splitlines()) <= 14
    blocked = "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'mtl', 'openvino_telemetry')))\n"
    ended = subprocess.run(
        [sys.executable, "-I", "-c", blocked + example], cwd=exported, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    predictions = MultiTaskModel.from_pretrained(run, device="cpu").predict(
        ["Battery died after a week", "Great phone"]
    )
    for task, rows in predictions.items():
        assert f"{task} {[row.label for row in rows]}" in ended.stdout


def test_a_graph_that_answers_otherwise_is_not_kept(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(saved: SavedModel, path: Path) -> None:
        tasks = {**saved.tasks, "topic": TaskHead(TASKS["topic"].labels, HeadSpec("linear"))}  # not calibrated
        write_graph(SavedModel(saved.network, saved.tokenizer, tasks, saved.folder), path)

    monkeypatch.setattr(exporting, "write_graph", wrong)
    ended = command("mtl.export", f"model={run}", f"output={tmp_path / 'out'}")
    assert ended.code == 2
    assert "1 row of 3 tokens" in ended.err
    assert "expected: equal labels, at most 1e-04 and 1e-05" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_labels_that_are_equal_up_to_rounding_are_ties() -> None:
    embeddings = np.zeros((3, 2), np.float32)
    shares = np.array([[0.5, 0.5], [0.500004, 0.499996], [0.6, 0.4]])
    ours = Answers(embeddings, {"mood": np.array([0, 0, 0])}, {"mood": shares})
    theirs = Answers(embeddings, {"mood": np.array([1, 1, 0])}, {"mood": shares})
    assert compare("x", ours, theirs).ties == 2
    assert compare("x", ours, theirs).holds
    other = Answers(embeddings, {"mood": np.array([0, 0, 1])}, {"mood": shares})
    assert compare("x", ours, other).other_labels == 1
    assert not compare("x", ours, other).holds
    broken = Answers(embeddings * np.nan, ours.labels, ours.probabilities)
    assert not compare("x", ours, broken).holds


def test_the_encoder_alone_is_read_by_sentence_transformers(run: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    exported = export_encoder(run, tmp_path / "encoder")
    (agreement,) = exported.agreements
    assert agreement.subject == f"{len(ROWS)} texts, encoded by sentence-transformers"
    names = {path.relative_to(tmp_path / "encoder").as_posix() for path in (tmp_path / "encoder").rglob("*.*")}
    assert not {"heads.safetensors", "mtl.json"} & names
    assert {"modules.json", "1_Pooling/config.json", "config.json", "model.safetensors", "tokenizer.json"} <= names
    embeddings = SentenceTransformer(str(tmp_path / "encoder"), device="cpu").encode(ROWS, show_progress_bar=False)
    np.testing.assert_allclose(embeddings, MultiTaskModel.from_pretrained(run, device="cpu").encode(ROWS), atol=1e-5)


def test_the_encoder_alone_is_verified_without_sentence_transformers(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "sentence_transformers" else find(name)
    )
    (agreement,) = export_encoder(run / "model", tmp_path / "encoder").agreements
    assert agreement.subject == f"{len(ROWS)} texts, encoded by transformers"
    assert agreement.embedding > 0  # another program, not the same numbers again


def test_an_encoder_that_is_read_otherwise_is_not_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_back = exporting._read_back
    monkeypatch.setattr(exporting, "_read_back", lambda *args: ("x", read_back(*args)[1] + 1e-3))
    with pytest.raises(ModelError, match="embeddings up to 1"):
        export_encoder(run, tmp_path / "encoder")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_done_is_said_before_anything_is_loaded(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    missing = ("onnx", "onnxscript", "onnxruntime", "openvino")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find(name))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    ended = command("mtl.export", f"model={run}", f"output={tmp_path / 'full'}")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "Configuration: 2 problems\n"
        "  format\n"
        "      found:    onnx, without onnx, onnxscript, onnxruntime\n"
        "      expected: onnx, onnxscript, onnxruntime installed\n"
        "      repair:   pip install 'mtl[export]'\n"
        "  output\n"
        f"      found:    {tmp_path / 'full'}, and it is not empty\n"
        "      expected: a new or empty folder\n"
    )
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"
    ended = command("mtl.export", f"model={run}", f"output={tmp_path / 'x'}", "format=openvino")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "Configuration: 1 problem\n"
        "  format\n"
        "      found:    openvino, without onnx, onnxscript, openvino\n"
        "      expected: onnx, onnxscript, openvino installed\n"
        "      repair:   pip install 'mtl[openvino]'\n"
    )
    assert (
        "no such folder"
        in command(
            "mtl.export", f"model={tmp_path / 'x'}", "format=sentence-transformers", f"output={tmp_path / 'y'}"
        ).err
    )


def test_a_model_without_a_run_is_compared_on_tokens(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "model", tmp_path / "alone")
    (tmp_path / "out").mkdir()  # an empty folder may be there
    exported = export_graph(tmp_path / "alone", tmp_path / "out")
    assert [agreement.rows for agreement in exported.agreements] == [1, 5, 1, 5, 1, 5]
    assert exported.figures == []
    assert (tmp_path / "out" / "model.onnx").is_file()
