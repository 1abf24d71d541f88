"""The error analysis of whole runs: its rows and neighbours against a direct computation, and the switches."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from mtl import MultiTaskModel
from mtl.evaluation.predictions import read_predictions
from tests.support.runs import data, rows, run

FAST = ("trainer.max_epochs=1",)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("freeze", ["none", "backbone", "lower_layers", "all"])
def test_mistakes_and_their_neighbours_are_those_of_the_saved_model(freeze: str, tmp_path: Path) -> None:
    extra = ["freeze.train_layers=1"] if freeze == "lower_layers" else []
    run(tmp_path / "run", *data(tmp_path, ["sentiment"]), *FAST, f"freeze={freeze}", *extra)
    found = read_predictions(tmp_path / "run" / "predictions" / "sentiment_test.csv")
    mistakes = table(tmp_path / "run" / "errors" / "sentiment_test.csv")
    wrong = [
        (-max(row), source)
        for label, predicted, row, source in zip(
            found.labels, found.predicted, found.probabilities.tolist(), found.sources, strict=True
        )
        if label != predicted
    ]
    assert wrong  # an encoder of random weights after one epoch
    assert [each["source"] for each in mistakes] == [source for _, source in sorted(wrong)]
    training, labels = zip(*rows("sentiment", 12), strict=True)
    model = MultiTaskModel.from_pretrained(tmp_path / "run")
    bank = model.encode(training)
    for mistake in mistakes:
        query = model.encode([mistake["text"]])[0]
        cosines = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
        for place in (1, 2, 3):
            line = int(mistake[f"nearest_{place}_source"].removeprefix("sentiment_train.csv:"))
            assert mistake[f"nearest_{place}_text"] == training[line - 2]
            assert mistake[f"nearest_{place}_label"] == labels[line - 2]
            similarity = float(mistake[f"nearest_{place}_similarity"])
            assert similarity == pytest.approx(cosines[line - 2], abs=1e-4)
            assert similarity == pytest.approx(np.sort(cosines)[-place], abs=1e-4)


def test_bounds_and_columns_of_the_user(tmp_path: Path) -> None:
    files = data(tmp_path, ["sentiment"])
    for split in ("train", "val", "test"):
        path = tmp_path / f"sentiment_{split}.csv"
        head, *lines = path.read_text().splitlines()
        path.write_text("\n".join([f"{head},shop", *(f"{line},{'ab'[at % 2]}" for at, line in enumerate(lines))]))
    bounds = ["evaluation.most_mistakes=1", "evaluation.nearest_rows=5"]
    run(tmp_path / "run", *files, *FAST, *bounds, "data.tasks.sentiment.slices=[shop]")
    assert len(table(tmp_path / "run" / "errors" / "sentiment_test.csv")) == 1
    slices = table(tmp_path / "run" / "errors" / "sentiment_test_slices.csv")
    assert {(each["value"], each["rows"]) for each in slices if each["slice"] == "shop"} == {("a", "4"), ("b", "4")}
    report = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "among 5 of 24 training rows, drawn at random" in report
    assert "| shop " in report


def test_without(tmp_path: Path) -> None:
    run(tmp_path / "run", *data(tmp_path, ["sentiment"]), *FAST, "evaluation.error_analysis=false")
    assert not {"errors", "figures"} & {path.name for path in (tmp_path / "run").iterdir()}
    report = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "Slices" not in report
    assert ".svg" not in report
    assert "**Confusion matrix** (a row for each true class, a column for each predicted one)" in report


def test_no_neighbours_wanted(tmp_path: Path) -> None:
    run(tmp_path / "run", *data(tmp_path, ["sentiment"]), *FAST, "evaluation.nearest_rows=0")
    mistakes = table(tmp_path / "run" / "errors" / "sentiment_test.csv")
    assert mistakes
    assert {each["nearest_1_text"] for each in mistakes} == {""}
