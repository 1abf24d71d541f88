"""Whole runs with every combination of losses: they learn, what they remember is saved, and the report has it."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import pytest
import torch

from mtl.evaluation.run_metrics import read_metrics
from tests.support.runs import data, run

if TYPE_CHECKING:
    from pathlib import Path

SHORT = ["trainer.max_epochs=2", "evaluation.error_analysis=false", "retention.path=null", "cache.activations=false"]
EVERY = ["trainer.log_every_n_steps=1", "callbacks.gradients.every_n_steps=1", "logger=csv"]
STATES = {
    "uncertainty": {"combination.log_variances.classification_", "combination.log_variances.sentiment_"},
    "dwa": {"combination.past", "combination.sums", "combination.counts", "combination._extra_state"},
    "famo": {"combination.logits", "combination.means", "combination.squares", "combination.steps"},
    "upgrad": set(),
}


def logged(folder: Path) -> dict[str, list[float]]:
    with (folder / "logs" / "metrics.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    return {name: [float(line[name]) for line in lines if line[name]] for name in lines[0]}


@pytest.mark.parametrize("combine", STATES)
def test_a_run_learns_and_keeps_the_state_of_its_combination(combine: str, tmp_path: Path) -> None:
    if combine == "upgrad":
        pytest.importorskip("torchjd")
    run(tmp_path / "run", *data(tmp_path), *SHORT, *EVERY, f"loss={combine}", "learning_rates.heads=0.1")

    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {name for name in saved if name.startswith("combination.")} == STATES[combine]
    if combine == "uncertainty":
        assert all(0 < abs(float(saved[name])) < 1 for name in STATES[combine])
    if combine == "famo":
        assert float(saved["combination.steps"].min()) == 10
        assert saved["combination.logits"].abs().min() > 0
    if combine == "dwa":
        assert saved["combination._extra_state"].tolist() == [0, 2]  # batches of this window, windows

    metrics = read_metrics(tmp_path / "run" / "metrics.json")
    groups = {group["name"]: group for group in metrics.run["groups"]}
    assert ("combination" in groups) == (combine == "uncertainty")
    if combine == "uncertainty":
        assert (groups["combination"]["learning_rate"], groups["combination"]["weight_decay"]) == (0.01, 0.0)
        assert groups["combination"]["parameters"] == 2
    assert f"- **losses combined by**: {combine}" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    curves = logged(tmp_path / "run")
    assert ("train/sentiment/weight" in curves) == (combine != "upgrad")
    assert curves["train/classification/loss"][-1] < curves["train/classification/loss"][0]


def test_a_report_says_whether_the_tasks_fight(tmp_path: Path) -> None:
    run(tmp_path / "run", *data(tmp_path), *SHORT, *EVERY, "evaluation.figures=true")
    figures = read_metrics(tmp_path / "run" / "metrics.json").gradients
    curves = logged(tmp_path / "run")
    assert figures is not None
    assert (figures.steps, figures.layer) == (10, "layer.2")
    cosines = curves["train/cosine/classification_sentiment"]
    assert figures.agreements[0].mean == pytest.approx(sum(cosines) / 10, abs=1e-6)
    assert len(curves["train/sentiment/gradient_norm"]) == 10
    for name in ("report.md", "report.html"):
        text = (tmp_path / "run" / name).read_text(encoding="utf-8")
        assert "Do the tasks fight?" in text
        assert "below 0 in" in text


@pytest.mark.parametrize(
    "chosen", [["callbacks.gradients=null"], ["freeze=backbone"], ["task=sentiment"]], ids=["off", "frozen", "alone"]
)
def test_where_nothing_is_measured_a_report_says_nothing(chosen: list[str], tmp_path: Path) -> None:
    run(tmp_path / "run", *data(tmp_path), *SHORT, *chosen)
    assert "Do the tasks fight?" not in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")


def test_a_frozen_encoder_shares_nothing_and_that_is_said(tmp_path: Path) -> None:
    run(tmp_path / "run", *data(tmp_path), *SHORT, "freeze=backbone", "loss.combine=uncertainty")
    assert read_metrics(tmp_path / "run" / "metrics.json").run["warnings"][0] == (
        "loss.combine=uncertainty changes little here: the encoder is frozen, so the tasks share nothing that learns, "
        "and a weight of a task is no more than a factor of its head's gradient."
    )


def test_accumulated_batches_look_back_once_for_each_optimizer_step(tmp_path: Path) -> None:
    run(tmp_path / "run", *data(tmp_path), *SHORT, "loss=famo", "trainer.accumulate_grad_batches=2")
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert saved["combination.steps"].tolist() == [6.0, 6.0]  # two epochs of five batches


def test_one_task_alone_learns_alone(tmp_path: Path) -> None:
    scored = run(tmp_path / "run", *data(tmp_path), *SHORT, "task=sentiment")
    assert scored.keys() == {"sentiment"}
    assert read_metrics(tmp_path / "run" / "metrics.json").run["name"] == "sentiment alone, freeze=none"
