"""What a run leaves: complete, consistent with itself, and of use wherever the folder is moved."""

from __future__ import annotations

import csv
import json
import logging
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from mtl import MultiTaskModel
from mtl.base.run_folder import begin, is_finished
from mtl.config.checks import load
from mtl.evaluation.predictions import read_predictions
from mtl.evaluation.records import TaskReport
from mtl.evaluation.run_metrics import read_metrics
from mtl.evaluation.runs import read_record
from mtl.reporting.run_page import run_page
from tests.support.commands import call
from tests.support.runs import WORDS, config, data, rows, run

if TYPE_CHECKING:
    from numpy.typing import NDArray

TASKS = ("classification", "sentiment")
FAST = ["learning_rates=uniform", "learning_rates.heads=0.01", "learning_rates.backbone=0.003"]
OTHER = 16
"""Validation rows of each label, enough to calibrate on, and test rows."""

Reports = Mapping[str, Mapping[str, TaskReport]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run. Do not write into it."""
    folder = tmp_path_factory.mktemp("runs")
    files = data(folder / "data", other=OTHER)
    run(folder / "run", *files, *FAST, "logger=csv", "trainer.max_epochs=4", "evaluation.figures=true")
    return folder / "run"


def test_all_files_are_there(finished: Path) -> None:
    files = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    model = {
        "README.md",
        "config.json",
        "heads.safetensors",
        "model.safetensors",
        "modules.json",
        "mtl.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "1_Pooling/config.json",
    }
    assert {name for name in files if not name.startswith("model/")} == {
        "config.yaml",
        "metrics.json",
        "run.json",
        "report.md",
        "report.html",
        "logs/metrics.csv",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        *(f"predictions/{task}_{split}.csv" for task in TASKS for split in ("val", "test")),
        *(f"errors/{task}_test{what}.csv" for task in TASKS for what in ("", "_slices")),
        *(f"figures/{task}_test_{kind}.svg" for task in TASKS for kind in ("classes", "confusion", "reliability")),
        "figures/training.svg",
        *(f"maps/{task}_test.npz" for task in TASKS),
    }
    assert {f"model/{name}" for name in model} <= files
    assert not [name for name in files if "partial" in name]


def test_a_run_in_a_folder_used_before_keeps_none_of_its_results(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    begin(folder, {}, {})
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left == {"config.yaml", "run.json"}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", ["val", "test"])
def test_the_figures_can_be_worked_out_again_from_the_predictions(finished: Path, task: str, split: str) -> None:
    report = read_metrics(finished / "metrics.json").tasks[task][split]
    found = read_predictions(finished / "predictions" / f"{task}_{split}.csv")
    right = [label == predicted for label, predicted in zip(found.labels, found.predicted, strict=True)]
    assert report.accuracy == pytest.approx(sum(right) / len(right))
    assert tuple(found.classes) == report.labels
    confusion = np.zeros((len(report.labels), len(report.labels)), dtype=int)
    for label, predicted in zip(found.labels, found.predicted, strict=True):
        confusion[report.labels.index(label), report.labels.index(predicted)] += 1
    assert report.confusion == confusion.tolist()
    assert [found.classes[best] for best in found.probabilities.argmax(axis=1)] == list(found.predicted)
    assert found.probabilities.sum(axis=1) == pytest.approx(np.ones(len(found)), abs=3e-6)


@pytest.mark.parametrize("task", TASKS)
def test_the_predictions_are_those_of_the_rows_in_their_order(finished: Path, task: str) -> None:
    found = read_predictions(finished / "predictions" / f"{task}_test.csv")
    texts, labels = zip(*rows(task, OTHER, start=12 + OTHER), strict=True)
    assert tuple(found.texts) == texts
    assert tuple(found.labels) == labels
    assert list(found.sources) == [f"{task}_test.csv:{line}" for line in range(2, len(texts) + 2)]


@pytest.mark.parametrize("task", TASKS)
def test_the_saved_model_gives_the_predictions(finished: Path, task: str) -> None:
    found = read_predictions(finished / "predictions" / f"{task}_test.csv")
    predicted = MultiTaskModel.from_pretrained(finished).predict_proba(found.texts)[task]
    assert predicted == pytest.approx(found.probabilities, abs=2e-6)


def test_the_report_shows_the_figures(finished: Path) -> None:
    report = (finished / "report.md").read_text(encoding="utf-8")
    for task, splits in read_metrics(finished / "metrics.json").tasks.items():
        for split, each in splits.items():
            cells = [task, split, str(each.rows), f"{each.accuracy:.3f}", f"{each.macro_f1:.3f}"]
            assert "|".join(cells) in report.replace(" ", "")
    for link in ("model", "metrics.json", "predictions", "config.yaml", "errors"):
        assert f"](<{link}>)" in report


def test_what_the_report_links_to_is_there(finished: Path) -> None:
    report = (finished / "report.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(<([^>]*)>\)", report)
    assert len([each for each in links if each.endswith(".svg")]) == 7
    assert all((finished / each).exists() for each in links)


def test_the_card_of_the_model_shows_the_figures(finished: Path) -> None:
    card = (finished / "model" / "README.md").read_text(encoding="utf-8")
    for task, splits in read_metrics(finished / "metrics.json").tasks.items():
        for split, each in splits.items():
            assert f"| {task} | {split} | {each.rows:,} | {each.accuracy:.3f} | {each.macro_f1:.3f} |" in card
    assert "- **sentiment**: bad, good\n" in card


def test_the_metrics_tell_what_was_run(finished: Path) -> None:
    content: dict[str, Any] = json.loads((finished / "metrics.json").read_text(encoding="utf-8"))
    assert content.keys() == {"tasks", "cost", "retention", "gradients", "run", "files", "checksum"}
    cost = content["cost"]
    assert cost["total_parameters"] == cost["trainable_parameters"] == 42213
    assert cost["train_seconds"] > 0
    assert cost["sentences_per_second"] > 0
    assert cost["peak_memory_bytes"] > 10**7
    assert content["run"]["seed"] == 42
    assert content["run"]["backbone"] == "random weights"
    assert content["run"]["warnings"] == []
    assert content["run"]["training_rows"] == {
        task: dict.fromkeys(sorted(WORDS[task]), 12) for task in ("classification", "sentiment")
    }
    assert [group["name"] for group in content["run"]["groups"]] == [
        "heads",
        "heads/no_decay",
        "backbone",
        "backbone/no_decay",
    ]


def test_the_curves_have_the_losses_of_the_tasks_and_the_figures_of_each_epoch(finished: Path) -> None:
    with (finished / "logs" / "metrics.csv").open(encoding="utf-8", newline="") as file:
        curves = list(csv.DictReader(file))
    assert {"train/loss", "train/classification/loss", "train/sentiment/loss", "val/sentiment/macro_f1"} <= set(
        curves[0]
    )
    assert len([row for row in curves if row["val/macro_f1"]]) == 4
    assert [row for row in curves if row["train/loss"]]
    for row in curves:
        if row["train/loss"]:
            parts = float(row["train/classification/loss"]) + float(row["train/sentiment/loss"])
            assert float(row["train/loss"]) == pytest.approx(parts, rel=1e-5)


def test_the_kept_configuration_is_that_of_the_run(finished: Path) -> None:
    kept = load(yaml.safe_load((finished / "config.yaml").read_text(encoding="utf-8")))
    files = data(finished.parent / "data", other=OTHER)
    assert kept == config(*files, *FAST, "logger=csv", "trainer.max_epochs=4", "evaluation.figures=true")


def test_a_moved_run_is_of_use_in_another_process_and_folder(finished: Path, tmp_path: Path) -> None:
    moved, elsewhere = tmp_path / "moved" / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(finished, moved)

    def check(module: str, *arguments: str) -> None:
        done = call(module, *arguments, folder=elsewhere)
        assert done.returncode == 0, done.stderr

    model = MultiTaskModel.from_pretrained(finished)
    texts = ["great phone 1", "it broke, awful"]
    check("mtl.predict", "model=../moved/run", "output=found.csv", "precision=fp32", *texts)
    assert probabilities(elsewhere / "found.csv") == pytest.approx(
        np.hstack([*model.predict_proba(texts).values()]), abs=1e-6
    )
    check("mtl.encode", "model=../moved/run/model", "output=found.npy", *texts)
    assert np.load(elsewhere / "found.npy") == pytest.approx(model.encode(texts), abs=1e-6)
    check("mtl.evaluate", "run=../moved/run", "output=figures", "precision=fp32")
    expected, found = (read_metrics(folder / "metrics.json").tasks for folder in (finished, elsewhere / "figures"))
    assert_same_figures(found, expected)


def assert_same_figures(found: Reports, expected: Reports) -> None:
    """The same counts, and probabilities that are the same but for the batches in which they were computed."""
    assert {task: list(splits) for task, splits in found.items()} == {task: [*each] for task, each in expected.items()}
    for task, splits in expected.items():
        for split, report in splits.items():
            other = found[task][split]
            assert replace(other, calibration=None) == replace(report, calibration=None)
            assert report.calibration is not None
            assert other.calibration is not None
            assert asdict(other.calibration.after) == pytest.approx(asdict(report.calibration.after), abs=1e-5)
            assert (other.calibration.temperature, other.calibration.tau) == (report.calibration.temperature, 0.0)


def probabilities(path: Path) -> NDArray[np.float64]:
    with path.open(encoding="utf-8", newline="") as file:
        found = [[float(value) for name, value in row.items() if name.startswith("p(")] for row in csv.DictReader(file)]
    return np.array(found)


def test_a_run_is_finished_only_when_its_page_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mtl.training.results.write_run_page", dies)
    with pytest.raises(KeyboardInterrupt), caplog.at_level(logging.INFO):
        run(tmp_path / "run", *data(tmp_path), "freeze=all", "evaluation.figures=true")
    assert caplog.messages[-1] == f"to resume: python -m mtl.train resume={tmp_path / 'run'}"
    assert (tmp_path / "run" / "report.md").is_file()
    assert not is_finished(tmp_path / "run")


def test_the_page_can_be_built_again_from_the_files(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    for text in ("When not to answer", "Prediction sets. Share of the rows", "Answers. Share of wrong labels"):
        assert text in page
    assert run_page(read_record(finished)) == page
    assert "<h1>Run: freeze=none</h1>" in page


def test_the_command_at_the_end_is_for_a_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "my run", *data(tmp_path / "data"), "trainer.max_steps=1", "freeze=backbone")
    last = capsys.readouterr().out.strip().splitlines()[-1]
    *_, model, sentence = shlex.split(last)
    assert model == f"model={tmp_path / 'my run'}"
    assert sentence == "a sentence"
