"""Calibration of whole runs: fitted on validation, stored in the saved model, used by everything that predicts."""

from __future__ import annotations

import csv
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mtl import MultiTaskModel
from mtl.evaluation.calibration import temperature_for
from mtl.evaluation.predictions import read_predictions
from mtl.evaluation.run_metrics import read_metrics
from mtl.model.decision import Calibration, log_softmax
from mtl.predict import main as predict
from mtl.training.reevaluate import evaluate_file, evaluate_run
from tests.support.runs import data, rows, run, write_csv

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TASKS = ("classification", "sentiment")
FAST = ["learning_rates=uniform", "learning_rates.heads=0.01", "learning_rates.backbone=0.003"]


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder; the validation rows of its tasks are 48 and 32. Do not write into it."""
    folder = tmp_path_factory.mktemp("calibrated")
    run(folder / "run", *data(folder, other=16), *FAST, "trainer.max_epochs=4", "calibration.bins=8")
    return folder / "run"


@pytest.fixture(scope="module")
def model(calibrated: Path) -> MultiTaskModel:
    return MultiTaskModel.from_pretrained(calibrated, device="cpu")


def manifest(folder: Path) -> dict[str, Any]:
    tasks: dict[str, Any] = json.loads((folder / "model" / "mtl.json").read_text(encoding="utf-8"))["tasks"]
    return tasks


@pytest.mark.parametrize("task", TASKS)
def test_the_temperature_is_that_of_the_validation_rows(calibrated: Path, model: MultiTaskModel, task: str) -> None:
    found = read_predictions(calibrated / "predictions" / f"{task}_val.csv")
    raw = np.log(model.predict_proba(found.texts, calibrated=False)[task].astype(float))
    labels = np.array([found.classes.index(label) for label in found.labels])
    stored = manifest(calibrated)[task]
    assert stored["temperature"] == pytest.approx(temperature_for(raw, labels), rel=1e-3)
    assert stored["temperature"] != 1.0
    assert (stored["bias"], stored["tau"]) == (None, 0.0)


@pytest.mark.parametrize("task", TASKS)
def test_the_predictions_of_the_run_are_calibrated(calibrated: Path, model: MultiTaskModel, task: str) -> None:
    found = read_predictions(calibrated / "predictions" / f"{task}_test.csv")
    probabilities = model.predict_proba(found.texts)[task]
    assert probabilities == pytest.approx(found.probabilities, abs=2e-6)
    assert [each.label for each in model.predict(found.texts)[task]] == found.predicted
    raw = model.predict_proba(found.texts, calibrated=False)[task]
    assert np.abs(raw - found.probabilities).max() > 1e-3
    assert [each.label for each in model.predict(found.texts, calibrated=False)[task]] == found.predicted
    again = Calibration(manifest(calibrated)[task]["temperature"]).probabilities(np.log(raw))
    assert again == pytest.approx(probabilities, abs=1e-5)


def test_the_metrics_and_the_report_have_both(calibrated: Path, model: MultiTaskModel) -> None:
    report = (calibrated / "report.md").read_text(encoding="utf-8")
    assert "## Calibration" in report
    card = (calibrated / "model" / "README.md").read_text(encoding="utf-8")
    assert f"classification T = {manifest(calibrated)['classification']['temperature']:.3f}" in card
    for task, splits in read_metrics(calibrated / "metrics.json").tasks.items():
        for split, each in splits.items():
            found = each.calibration
            assert found is not None
            assert len(found.bins) == 8
            assert found.temperature == manifest(calibrated)[task]["temperature"]
            assert found.before.accuracy == found.after.accuracy == each.accuracy
            assert found.after.macro_f1 == pytest.approx(each.macro_f1)
            predictions = read_predictions(calibrated / "predictions" / f"{task}_{split}.csv")
            assert found.after.nll == pytest.approx(nll_of(predictions.probabilities, predictions), rel=1e-3)
            raw = model.predict_proba(predictions.texts, calibrated=False)[task]
            assert found.before.nll == pytest.approx(nll_of(raw, predictions), rel=1e-3)


def nll_of(probabilities: NDArray[np.floating], predictions: Any) -> float:
    at = [predictions.classes.index(label) for label in predictions.labels]
    return float(-np.log(probabilities[np.arange(len(at)), at]).mean())


def test_evaluating_again_gives_the_same_and_the_raw_figures_where_asked(calibrated: Path) -> None:
    expected = read_metrics(calibrated / "metrics.json").tasks
    for task, splits in evaluate_run(calibrated, precision="fp32", device="cpu").items():
        for split, scored in splits.items():
            found, first = scored.report.calibration, expected[task][split].calibration
            assert found is not None
            assert first is not None
            assert found.after.nll == pytest.approx(first.after.nll, abs=1e-5)
            assert len(found.bins) == len(first.bins)
    raw = evaluate_run(calibrated, "test", precision="fp32", device="cpu", calibrated=False)
    for task, splits in raw.items():
        found, first = splits["test"].report.calibration, expected[task]["test"].calibration
        assert found is not None
        assert first is not None
        assert found.temperature == 1.0
        assert found.after == found.before
        assert found.before.nll == pytest.approx(first.before.nll, abs=1e-5)


def test_the_commands_use_it(calibrated: Path, model: MultiTaskModel, tmp_path: Path) -> None:
    texts = ["great phone 1", "it broke, awful", "late box"]
    for flag in (True, False):
        file = tmp_path / f"{flag}.csv"
        line = [f"model={calibrated}", f"output={file}", "precision=fp32", "device=cpu", *texts]
        predict([*line, *([] if flag else ["calibrated=false"])])
        with file.open(encoding="utf-8", newline="") as content:
            found = [float(row["p(sentiment=good)"]) for row in csv.DictReader(content)]
        assert found == pytest.approx(model.predict_proba(texts, calibrated=flag)["sentiment"][:, 1], abs=1e-6)


def test_going_on_from_a_calibrated_model_fits_again(calibrated: Path, tmp_path: Path) -> None:
    files = data(tmp_path, ["sentiment"], other=16)
    run(tmp_path / "run", *files, "freeze=all", f"model.init_from={calibrated}", "calibration=none")
    assert manifest(tmp_path / "run")["sentiment"]["temperature"] == 1.0
    run(tmp_path / "again", *files, "freeze=all", f"model.init_from={calibrated}")
    expected = manifest(calibrated)["sentiment"]["temperature"]
    assert manifest(tmp_path / "again")["sentiment"]["temperature"] == pytest.approx(expected, rel=1e-3)


def test_without_validation_rows_nothing_is_fitted_and_it_is_said(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "all.csv", rows("sentiment", 20))
    test = write_csv(tmp_path / "test.csv", rows("sentiment", 4, start=20))
    files = ["data=files", f"data.tasks.sentiment.train={file}", f"data.tasks.sentiment.test={test}"]
    found = run(tmp_path / "run", *files, "data.tasks.sentiment.val=" + str(few(tmp_path)), "trainer.max_epochs=1")
    assert manifest(tmp_path / "run")["sentiment"]["temperature"] == 1.0
    warnings = read_metrics(tmp_path / "run" / "metrics.json").run["warnings"]
    assert warnings == [
        "sentiment: 4 validation rows, too few to calibrate on: probabilities are the head's own (T = 1)."
    ]
    report = found["sentiment"]["test"].report.calibration
    assert report is not None
    assert report.before == report.after


def few(folder: Path) -> Path:
    return write_csv(folder / "val.csv", rows("sentiment", 2, start=30))


def test_a_tuned_rule_is_stored_and_used(tmp_path: Path) -> None:
    """Most rows are bad in training and half of them in validation: the head says bad too often."""
    train = [*rows("sentiment", 40)]
    train = [row for at, row in enumerate(train) if row[1] == "bad" or at < 16]
    files = ["data=files", f"data.tasks.sentiment.train={write_csv(tmp_path / 'train.csv', train)}"]
    for split, start in (("val", 40), ("test", 140)):
        path = write_csv(tmp_path / f"{split}.csv", rows("sentiment", 100, start))
        files.append(f"data.tasks.sentiment.{split}={path}")
    found = run(tmp_path / "run", *files, *FAST, "trainer.max_epochs=5", "calibration=tuned_prior")
    stored = manifest(tmp_path / "run")["sentiment"]
    report = found["sentiment"]["test"].report
    assert report.calibration is not None
    assert report.calibration.tau == stored["tau"] > 0
    counts = [sum(label == name for _, label in train) for name in ("bad", "good")]
    assert stored["bias"] == pytest.approx([-stored["tau"] * math.log(count / len(train)) for count in counts])
    assert report.macro_f1 == pytest.approx(report.calibration.after.macro_f1)
    assert report.macro_f1 > report.calibration.before.macro_f1
    predictions = found["sentiment"]["test"].predictions
    model = MultiTaskModel.from_pretrained(tmp_path / "run", device="cpu")
    assert [each.label for each in model.predict(predictions.texts)["sentiment"]] == predictions.predicted
    raw = np.log(model.predict_proba(predictions.texts, calibrated=False)["sentiment"].astype(float))
    expected = np.exp(log_softmax((raw + np.array(stored["bias"])) / stored["temperature"]))
    assert expected == pytest.approx(predictions.probabilities, abs=1e-5)
    again = evaluate_file(tmp_path / "run", tmp_path / "test.csv", precision="fp32", device="cpu")
    assert again["sentiment"]["test"].report.confusion == report.confusion
    assert "**Decision rule**" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
