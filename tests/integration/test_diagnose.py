"""``python -m mtl.diagnose`` on a small run, and with arguments that are wrong."""

from __future__ import annotations

import csv
import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support import commands, runs

if TYPE_CHECKING:
    from pathlib import Path

KEYS = "run=…, task=…, output=…, more=…, similar=…, encoder=…, precision=…, device=…"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two tasks; ``sentiment`` has a training row twice under two labels, one of them also in test."""
    folder = tmp_path_factory.mktemp("diagnose")
    overrides = runs.data(folder, train=30, other=6)
    for split, label in (("train", "good"), ("train", "bad"), ("test", "good")):
        with (folder / f"sentiment_{split}.csv").open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow(["Just Fine!" if split == "test" else "just fine", label])
    runs.run(folder / "run", *overrides, "freeze=all")
    return folder / "run"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_task_is_diagnosed(run: Path) -> None:
    found = commands.run("mtl.diagnose", f"run={run}", "more=20")
    assert found.code == 0, found.err
    assert found.out.endswith(f"report   {run}/diagnosis/diagnosis.md\n")
    assert "sentiment: 1 pair of training rows with nearly the same text and different labels" in found.out
    folder = run / "diagnosis"
    kinds = ("suspects", "confusions", "duplicates", "data_need")
    expected = {f"{kind}_{task}.csv" for kind in kinds for task in ("classification", "sentiment")}
    expected |= {f"learning_curves_{task}.svg" for task in ("classification", "sentiment")}
    assert {path.name for path in folder.iterdir()} == {"diagnosis.md", "diagnosis.json", *expected}
    tasks = json.loads((folder / "diagnosis.json").read_text(encoding="utf-8"))["tasks"]
    assert {task: each["rows"]["train"] for task, each in tasks.items()} == {"classification": 90, "sentiment": 62}
    words = [f"{task}: {sentence}" for task, each in tasks.items() for sentence in each["words"]]
    assert [line for line in found.out.splitlines() if line.startswith(("classification", "sentiment"))] == words
    ranks = [int(row["rank"]) for row in rows(folder / "suspects_sentiment.csv")]
    assert ranks == list(range(1, 63))


def test_the_texts_that_repeat_are_listed(run: Path, tmp_path: Path) -> None:
    found = commands.run("mtl.diagnose", f"run={run}", "task=sentiment", f"output={tmp_path}/out", "similar=1.0")
    assert found.code == 0, found.err
    assert not (tmp_path / "out" / "suspects_classification.csv").exists()
    same = [row for row in rows(tmp_path / "out" / "duplicates_sentiment.csv") if row["text"] == "just fine"]
    assert {(row["kind"], row["label"], row["label 2"], row["same text"]) for row in same} == {
        ("different labels", "good", "bad", "yes"),
        ("leak", "good", "good", "yes"),
        ("leak", "bad", "good", "yes"),
    }
    assert {row["source"] for row in same} == {"sentiment_train.csv:62", "sentiment_train.csv:63"}


def test_the_same_run_gives_the_same_findings(run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert commands.run("mtl.diagnose", f"run={run}", "task=classification", f"output={tmp_path / name}").code == 0
    for name in ("diagnosis.json", "suspects_classification.csv", "data_need_classification.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_run_whose_model_is_gone_can_be_diagnosed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(run / "config.yaml", tmp_path / "run")
    found = commands.run("mtl.diagnose", f"run={tmp_path / 'run'}", "task=sentiment", "encoder=tiny")
    assert found.code == 0, found.err


BAD = {
    "nothing": (
        [],
        """Configuration: 1 problem
  run
      found:    nothing
      expected: a value
      repair:   give run=…
""",
    ),
    "an unknown flag": (
        ["run={run}", "--fast"],
        f"""Configuration: 1 problem
  --fast
      found:    an unknown flag
      expected: {KEYS}
""",
    ),
    "values out of range": (
        ["run={run}", "more=0", "similar=1.5"],
        """Configuration: 2 problems
  more
      found:    0
      expected: greater than or equal to 1
  similar
      found:    1.5
      expected: less than or equal to 1
""",
    ),
    "no such run": (
        ["run={here}/nowhere"],
        """Configuration: 1 problem
  {here}/nowhere/config.yaml
      found:    no such file
      expected: the configuration of a run, in its folder
      repair:   give a run folder: run=outputs/<date>/<time>
""",
    ),
    "no such task": (
        ["run={run}", "task=sentimet"],
        """Configuration: 1 problem
  task
      found:    'sentimet'
      expected: classification, sentiment
      repair:   did you mean sentiment?
""",
    ),
    "an output that is a file": (
        ["run={run}", "output={run}/config.yaml"],
        """Configuration: 1 problem
  output
      found:    {run}/config.yaml, and {run}/config.yaml is a file
      expected: a folder that can be made
""",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_argument_is_named(name: str, run: Path, tmp_path: Path) -> None:
    arguments, expected = BAD[name]
    found = commands.run("mtl.diagnose", *(each.format(run=run, here=tmp_path) for each in arguments))
    assert (found.code, found.out) == (2, "")
    assert found.err == expected.format(run=run, here=tmp_path)


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    runs.run(tmp_path / "run", *runs.data(tmp_path, ["sentiment"], train=6), "freeze=all")
    found = commands.run("mtl.diagnose", f"run={tmp_path / 'run'}")
    assert found.code == 2
    assert (
        found.err
        == """Data: 1 problem
  data.tasks.sentiment.train
      found:    12 training rows
      expected: 20 at least, to say anything about them
      repair:   name another task with task=…, or collect rows of any class
"""
    )
