"""Training on from a model that has more tasks: heads without data are kept, and nothing is said of them untruly."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mtl import MultiTaskModel
from mtl.evaluation.run_metrics import read_metrics
from mtl.model.saved import load_model, save_model
from mtl.training.reevaluate import evaluate_file, evaluate_run
from tests.support.runs import data, run

if TYPE_CHECKING:
    from pathlib import Path

    from mtl.model.saved import TaskHead

SHORT = ["trainer.max_epochs=1", "evaluation.error_analysis=false", "learning_rates.heads=0.05"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two tasks, one of them calibrated. Do not write into it."""
    folder = tmp_path_factory.mktemp("kept")
    run(folder / "run", *data(folder), *SHORT, "freeze=backbone")
    saved = load_model(folder / "run")
    tasks = {**saved.tasks, "sentiment": replace(saved.tasks["sentiment"], temperature=2.0, bias=[0.5, 0.0], tau=0.5)}
    save_model(saved.folder, saved.network, saved.tokenizer, tasks, "")
    return folder / "run"


def texts_of(first: Path) -> list[str]:
    with (first.parent / "sentiment_test.csv").open(encoding="utf-8") as file:
        return [row["text"] for row in csv.DictReader(file)]


def heads_of(folder: Path) -> dict[str, TaskHead]:
    return load_model(folder).tasks


def test_on_a_frozen_encoder_the_other_heads_predict_every_bit_as_before(
    first: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run(tmp_path / "next", *data(tmp_path, ["stars"]), *SHORT, f"model.init_from={first}", "freeze=backbone")
    before, after = (MultiTaskModel.from_pretrained(each, device="cpu") for each in (first, tmp_path / "next"))
    assert list(after.labels) == ["stars", "classification", "sentiment"]
    texts = texts_of(first)
    for calibrated in (True, False):
        expected, found = (each.predict_proba(texts, calibrated=calibrated) for each in (before, after))
        assert all(np.array_equal(found[task], expected[task]) for task in expected)
    old, new = heads_of(first), heads_of(tmp_path / "next")
    assert {task: new[task] for task in old} == old
    note = "classification, sentiment: no data here, frozen with all that is below; predictions and calibration are "
    note += "unchanged"
    assert f"kept from {first}: {note}" in caplog.messages
    assert note in (tmp_path / "next" / "report.md").read_text(encoding="utf-8")
    card = (tmp_path / "next" / "model" / "README.md").read_text(encoding="utf-8")
    assert "bad, good. Kept as it was in the model that training started from, and not measured again." in card
    assert not any("stale" in message for message in caplog.messages)


def test_where_the_encoder_is_trained_they_are_stale_and_not_calibrated(
    first: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path / "next", *data(tmp_path, ["stars"]), *SHORT, f"model.init_from={first}")
    warning = (
        f"The heads of classification, sentiment are kept from {first} without data and become stale: what is below "
        "them is trained here, so their predictions change, nothing measures how, and their calibration is dropped. "
        "Give their data too (data.tasks.classification.path=<file> data.tasks.sentiment.path=<file>), or freeze the "
        "encoder (freeze=backbone)."
    )
    messages = caplog.messages
    assert messages.count(f"warning: {warning}") == 1
    warnings = read_metrics(tmp_path / "next" / "metrics.json").run["warnings"]
    assert isinstance(warnings, list)
    assert warnings[0] == warning
    heads = heads_of(tmp_path / "next")
    assert {task: head.stale for task, head in heads.items()} == {
        "stars": False,
        "classification": True,
        "sentiment": True,
    }
    assert (heads["sentiment"].temperature, heads["sentiment"].bias, heads["sentiment"].tau) == (1.0, None, 0.0)
    card = (tmp_path / "next" / "model" / "README.md").read_text(encoding="utf-8")
    assert card.count("**Stale**: the encoder was trained after this head without rows of this task") == 2

    run(tmp_path / "third", *data(tmp_path, ["stars"]), *SHORT, f"model.init_from={tmp_path / 'next'}", "freeze=all")
    again = read_metrics(tmp_path / "third" / "metrics.json").run["warnings"]
    assert isinstance(again, list)
    assert again[0].startswith("The heads of classification, sentiment are stale already in")
    assert heads_of(tmp_path / "third")["sentiment"].stale


def test_kept_heads_can_be_evaluated_and_get_data_again(first: Path, tmp_path: Path) -> None:
    run(tmp_path / "next", *data(tmp_path, ["stars"]), *SHORT, f"model.init_from={first}", "freeze=backbone")
    assert list(evaluate_run(tmp_path / "next", device="cpu")) == ["stars"]
    file = first.parent / "sentiment_test.csv"
    expected, found = (evaluate_file(each, file, "sentiment", device="cpu") for each in (first, tmp_path / "next"))
    assert found["sentiment"]["sentiment_test"].report == expected["sentiment"]["sentiment_test"].report
    back = run(tmp_path / "back", *data(tmp_path), *SHORT, f"model.init_from={tmp_path / 'next'}")
    assert list(back) == ["classification", "sentiment"]
    assert heads_of(tmp_path / "back")["stars"].stale
    assert not heads_of(tmp_path / "back")["sentiment"].stale
