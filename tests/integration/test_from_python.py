"""Training from Python: the figures of the command line, from data of every kind, as often as wanted."""

from __future__ import annotations

import inspect
import logging
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from mtl import MtlError, Run, train
from mtl.base.errors import Problem
from mtl.base.files import CONF
from mtl.training import interface
from tests.support import commands
from tests.support.commands import outside
from tests.support.runs import data, rows, write_csv

if TYPE_CHECKING:
    from collections.abc import Callable

QUICK = ["trainer=cpu", "trainer.max_epochs=1", "logger=none", "retention.path=null", "evaluation.error_analysis=false"]
HOW: dict[str, Any] = {"backbone": "tiny", "evaluation": {"figures": False}, "overrides": QUICK}
ROWS = rows("sentiment", 20)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def frame(content: list[tuple[str, str]]) -> pd.DataFrame:
    return pd.DataFrame(content, columns=["text", "label"])


def features(content: list[tuple[str, str]]) -> Dataset:
    names = ["bad", "good"]
    columns = {"text": [text for text, _ in content], "label": [names.index(label) for _, label in content]}
    return Dataset.from_dict(columns).cast_column("label", ClassLabel(names=names))


def test_it_is_the_command_line(here: Path) -> None:
    """Splits in memory give the figures, predictions and weights of the same rows in files."""
    counts = {"train": (0, 12), "val": (12, 4), "test": (16, 4)}
    parts = {
        task: {split: frame(rows(task, count, start)) for split, (start, count) in counts.items()}
        for task in ("classification", "sentiment")
    }
    run = train(parts, experiment="backbone_frozen", seed=7, folder="python", **HOW)
    settings = [*QUICK, "backbone=tiny", "evaluation.figures=false", "experiment=backbone_frozen", "seed=7"]
    done = commands.run("mtl.train", *data(here), *settings, "hydra.run.dir=command")
    assert done.code == 0, done.err
    other = Run(here / "command")
    assert run.record.tasks == other.record.tasks
    assert run.record.run["choices"] == other.record.run["choices"]
    for name in ("model/model.safetensors", "model/heads.safetensors"):
        assert (run.folder / name).read_bytes() == (other.folder / name).read_bytes()
    assert run.metrics.equals(other.metrics)
    assert run.metrics.loc[("sentiment", "test"), "macro_f1"] == other.record.tasks["sentiment"]["test"].macro_f1
    assert run.metrics.loc[("sentiment", "test"), "rows"] == 8
    scores = other.record.tasks["sentiment"]["val"].per_class["bad"]
    assert run.classes.loc[("sentiment", "val", "bad")].tolist() == [
        scores.precision,
        scores.recall,
        scores.f1,
        scores.support,
    ]
    assert run.predictions("sentiment").is_file()
    assert run.report.is_file()
    assert run.model.predict("great phone").keys() == parts.keys()
    again = commands.run("mtl.evaluate", "run=python")
    assert again.code == 0, again.err  # the run has its rows


OTHER: dict[str, Any] = {"text_column": "body", "label_column": "stars", "labels": ["good", "bad"]}
KINDS: dict[str, Callable[[], Any]] = {
    "pairs": lambda: ROWS,
    "frame": lambda: frame(ROWS),
    "categories": lambda: frame(ROWS).astype({"label": "category"}),
    "table": lambda: pa.table({"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]}),
    "dataset": lambda: features(ROWS),
    "datasets": lambda: DatasetDict({"train": features(ROWS[:24]), "test": features(ROWS[24:])}),
    "other columns": lambda: {"path": frame(ROWS).set_axis(["body", "stars"], axis=1), **OTHER},
    "splits": lambda: {"train": ROWS[:24], "val": frame(ROWS[24:32]), "test": ROWS[32:]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data(kind: str) -> None:
    run = train({"mood": KINDS[kind]()}, folder="run", freeze="all", **HOW)
    assert run.model.labels == {"mood": ("good", "bad") if kind == "other columns" else ("bad", "good")}
    assert run.metrics["rows"].index.tolist() == [("mood", "val"), ("mood", "test")]


def test_a_file_and_a_frame_with_a_column_for_each_task(here: Path) -> None:
    path = write_csv(here / "a.csv", rows("stars", 20))
    table = frame(ROWS).assign(kind=[text.split()[0] in ("phone", "very", "day") for text, _ in ROWS])
    tasks = {"stars": path, "mood": table, "kind": {"path": table, "label_column": "kind"}}
    run = train(tasks, folder="run", freeze="all", **HOW)
    assert [path.name for path in (run.folder / "training_data").iterdir()] == ["mood.parquet"]
    texts = {task: set(pd.read_csv(run.predictions(task))["text"]) for task in ("mood", "kind")}
    assert texts["mood"] == texts["kind"]  # a shared file is split alike


def test_it_leaves_the_process_as_it_was(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> Any:
        loggers = [logging.getLogger(name) for name in (None, "mtl", "lightning.pytorch", "lightning.fabric")]
        signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return (
            [(each.handlers[:], each.level) for each in loggers],
            signals,
            sys.argv[:],
            warnings.filters[:],
            Path.cwd(),
        )

    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    before = state()
    with initialize_config_dir(str(CONF), version_base="1.3"):  # as within another program that uses Hydra
        first = train({"mood": ROWS}, freeze="backbone", seed=5, **HOW)
        assert GlobalHydra.instance().is_initialized()
    second = train({"mood": ROWS}, freeze="backbone", seed=5, **HOW)
    assert state() == before
    assert first.folder != second.folder
    assert first.folder.is_relative_to(Path.cwd() / "outputs")
    assert first.record.tasks == second.record.tasks
    assert "epoch 1/1" in (second.folder / "train.log").read_text(encoding="utf-8")
    assert "mood, test" in capsys.readouterr().out


def test_no_control_character_reaches_the_log(here: Path) -> None:
    with interface.logging_into(here):
        logging.getLogger("mtl.training").info("label %r and %s", "x", "y\x1b[2J")
    assert (here / "train.log").read_text(encoding="utf-8").endswith("[INFO] - label 'x' and y\\x1b[2J\n")


def problems(data: Any, **how: Any) -> tuple[Problem, ...]:
    with pytest.raises(MtlError) as caught:
        train(data, **how)
    return caught.value.problems


def test_errors_are_those_of_the_command_line(here: Path) -> None:
    with pytest.raises(MtlError) as caught:
        train(seed=-1, freeze="bakbone", trainer={"max_epochs": "x"})
    done = commands.run("mtl.train", "seed=-1", "freeze=bakbone", "trainer.max_epochs=x")
    assert f"{caught.value}\n" == done.err
    assert not list(here.iterdir())


def test_what_is_no_data(here: Path) -> None:
    kinds = "a data frame, an Arrow table, (text, label) pairs, a Dataset or DatasetDict of `datasets`, or a file"
    assert problems({"a": 5, "b": [("x", "y"), "z"], "c": {"train": ROWS, "val": 5}}) == (
        Problem("data.tasks.a", "a value of type int", kinds),
        Problem("data.tasks.b", "item 2 is 'z'", "(text, label) pairs", f"or give {kinds}"),
        Problem("data.tasks.c.val", "a value of type int", kinds),
    )
    (problem,) = problems({"a": {"train": ROWS, "test": features(ROWS)}})
    assert (problem.place, problem.found) == ("data.tasks.a.test", "a Dataset beside other kinds of data")
    (problem,) = problems({"a": [("x", "y"), ("z", ["y"])]})
    assert problem.place == "data.tasks.a"
    assert problem.found.startswith("column 'label': ")
    (problem,) = problems({"a": ROWS}, overrides=["-m", "seed=1,2"])
    assert (problem.place, problem.found) == ("overrides", "-m")
    assert not list(here.iterdir())


def test_a_wrong_row_is_named_by_its_number(here: Path) -> None:
    (problem,) = problems({"mood": [*ROWS, ("", "good")]}, folder="run", **HOW)
    assert problem.place == f"{here}/run/training_data/mood.parquet:{len(ROWS) + 1}"


@pytest.mark.parametrize("first", ["", "import mtl.train\n", "from mtl.train import main\n", "import mtl\nmtl.train\n"])
def test_the_function_and_the_command_are_one(first: str) -> None:
    code = (
        first + "from mtl import train\nimport inspect, mtl\nassert train is mtl.train\nprint(inspect.signature(train))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=outside(), capture_output=True, text=True, check=True)
    assert done.stdout == f"{inspect.signature(train)}\n"
    assert next(iter(inspect.signature(train).parameters)) == "data"
