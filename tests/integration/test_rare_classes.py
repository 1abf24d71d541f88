"""Remedies for rare classes: each trains, does what it says, and is named in the log, the report and metrics.json."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch

from mtl.evaluation.run_metrics import read_metrics
from mtl.model.saved import load_model
from tests.support.runs import Probe, data, probed, rows, run, write_csv

if TYPE_CHECKING:
    from pathlib import Path

    from mtl.data.batch import Batch
    from mtl.training.module import MultiTaskModule

LABELS = ("delivery", "price", "screen")
COUNTS = (16, 4, 1)
SHORT = ["trainer.max_epochs=1", "callbacks.progress=false"]


def rare(folder: Path) -> list[str]:
    """Write tasks whose classification has 16, 4 and 1 training rows and return the overrides that name them."""
    overrides = data(folder, train=max(COUNTS))
    content = rows("classification", max(COUNTS))
    write_csv(
        folder / "classification_train.csv",
        [
            each
            for label, count in zip(LABELS, COUNTS, strict=True)
            for each in [row for row in content if row[1] == label][:count]
        ],
    )
    return overrides


def losses_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_metrics(folder / "metrics.json").run["losses"]
    return found


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            ["weighting=balanced"],
            "cross-entropy; balanced class weights (power 1): delivery 0.438, price 1.75, screen 7",
        ),
        (
            ["weighting=balanced", "weighting_power=0.5"],
            "cross-entropy; balanced class weights (power 0.5): delivery 0.75, price 1.5, screen 3",
        ),
        (
            ["weighting=effective_number", "beta=0.0"],
            "cross-entropy; class weights by effective number (beta 0): delivery 1, price 1, screen 1",
        ),
        (
            ["weighting=logit_adjustment", "tau=0.5"],
            "cross-entropy; logits adjusted in training (tau 0.5) by delivery -0.136, price -0.829, screen -1.52",
        ),
        (
            ["kind=focal", "gamma=1.5", "label_smoothing=0.1", "weighting=balanced"],
            "focal, gamma 1.5; label smoothing 0.1; balanced class weights (power 1): delivery 0.438, price 1.75, "
            "screen 7",
        ),
    ],
)
def test_each_remedy_trains_and_is_named(
    settings: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [f"loss.classification.{each}" for each in settings]
    run(tmp_path / "run", *rare(tmp_path), *SHORT, "freeze=backbone", *own)
    assert f"loss of classification: {text}" in " ".join(capsys.readouterr().out.split())
    assert text in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    losses = losses_of(tmp_path / "run")
    assert losses["classification"]["rows"] == dict(zip(LABELS, COUNTS, strict=True))
    assert losses["sentiment"]["weighting"] == "none"
    assert losses["sentiment"]["class_weights"] is None


def test_a_plain_loss_is_not_worth_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "run", *rare(tmp_path), *SHORT, "freeze=backbone")
    assert "loss of" not in capsys.readouterr().out
    assert "loss of" not in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")


def test_where_nothing_learns_there_is_no_loss(tmp_path: Path) -> None:
    run(tmp_path / "run", *rare(tmp_path), "freeze=all", "loss.classification.weighting=balanced")
    assert losses_of(tmp_path / "run") == {}


def by_hand(module: MultiTaskModule, batch: Batch) -> float:
    """Return the loss of a step of heads without dropout: weights (21 / (3 n)), and plain for sentiment."""
    total = torch.zeros(())
    embeddings = module.network.embed(batch)
    for task, span in batch.slices.items():
        logs = module.network.head(task)(embeddings[span]).log_softmax(dim=1)
        own = logs[torch.arange(len(logs)), batch.labels[task]]
        weights = torch.tensor([21 / (3 * count) for count in COUNTS] if task == "classification" else [1.0, 1.0])
        total = total - (weights[batch.labels[task]] * own).mean()
    return total.item()


def test_the_loss_of_a_step_is_the_formula_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected: list[float] = []
    found: list[float] = []

    def before(module: MultiTaskModule, batch: Batch) -> None:
        with torch.no_grad():
            expected.append(by_hand(module, batch))

    def after(module: MultiTaskModule, batch: Batch) -> None:
        found.append(float(module.step_log.figures["train/loss"]))

    probed(monkeypatch, Probe(before_batch=before, after_batch=after))
    own = ["loss.classification.weighting=balanced", "heads.default.dropout=0.0", "trainer.log_every_n_steps=1"]
    run(tmp_path / "run", *rare(tmp_path), *SHORT, "freeze=backbone", *own)
    assert len(found) > 2
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("freeze", ["none", "backbone", "lower_layers"])
@pytest.mark.parametrize("cached", ["true", "false"])
def test_repeated_rows_come_with_their_own_labels_in_every_way_of_training(
    freeze: str, cached: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: Counter[int] = Counter()
    classes: Counter[int] = Counter()

    def look(_: MultiTaskModule, batch: Batch) -> None:
        if "classification" in batch.tasks:  # a step has one task here
            seen.update(batch.indices["classification"].tolist())
            classes.update(batch.labels["classification"].tolist())

    probed(monkeypatch, Probe(after_batch=look))
    own = ["data.tasks.classification.oversample=1.0", "loss.classification.weighting=balanced"]
    files = ["data.interleave=proportional", f"cache.activations={cached}"]
    run(tmp_path / "run", *rare(tmp_path), *SHORT, f"freeze={freeze}", *own, *files)
    assert classes == {0: 16, 1: 16, 2: 16}
    assert seen == {**dict.fromkeys(range(16), 1), **dict.fromkeys(range(16, 20), 4), 20: 16}
    output = capsys.readouterr().out
    assert "21 + 27 repeated" in output
    assert "classification 21 (+ 27 repeated)" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    weights = losses_of(tmp_path / "run")["classification"]["class_weights"]
    assert weights == pytest.approx(dict.fromkeys(LABELS, 1.0))  # what is repeated is not weighted again


def test_a_scaled_head_is_saved_as_one(tmp_path: Path) -> None:
    own = ["heads.classification.scale=16.0", "heads.sentiment=mlp", "heads.sentiment.scale=2.0"]
    run(tmp_path / "run", *rare(tmp_path), *SHORT, "freeze=backbone", *own)
    saved = load_model(tmp_path / "run")
    expected = {"classification": 16.0, "sentiment": 2.0}
    assert {name: task.head.scale for name, task in saved.tasks.items()} == expected
    assert {name: saved.network.head(name).scale for name in expected} == expected


AVERAGE = ["callbacks.average.decay=0.8", "trainer.max_epochs=2", "heads.default.dropout=0.0"]


@pytest.mark.usefixtures("whole_embeddings")
@pytest.mark.parametrize("freeze", ["none", "backbone", "gradual"])
@pytest.mark.parametrize("best", ["true", "false"])
def test_the_averages_are_validated_and_saved(
    freeze: str, best: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    averages: dict[str, torch.Tensor] = {}
    steps: Counter[str] = Counter()
    after_epoch: list[dict[str, torch.Tensor]] = []
    own: dict[str, torch.Tensor] = {}

    def start(module: MultiTaskModule) -> None:
        averages.update({name: value.clone() for name, value in module.network.state_dict().items()})

    def look(module: MultiTaskModule, _: Batch) -> None:
        own.update({name: value.clone() for name, value in module.network.state_dict().items()})
        for layer in module.freezing.trainable(module.global_step - 1):  # the step before
            steps[layer] += 1
            decay = min(0.8, steps[layer] / (steps[layer] + 9))
            for name, value in module.network.layer_parameters(layer):
                averages[name] = decay * averages[name] + (1 - decay) * value.detach()
        if module.trainer.is_last_batch:
            after_epoch.append(dict(averages))

    probed(monkeypatch, Probe(on_start=start, after_batch=look))
    run(tmp_path / "run", *data(tmp_path), f"freeze={freeze}", f"callbacks.keep_best={best}", *AVERAGE)
    checkpoints = tmp_path / "run" / "checkpoints"
    last = torch.load(checkpoints / "last.ckpt", weights_only=True)
    saved = load_model(tmp_path / "run").network.state_dict()
    expected = after_epoch[-1]
    if best == "true":
        file = torch.load(checkpoints / "best.ckpt", weights_only=True)
        expected = after_epoch[file["epoch"]]
    for name, value in saved.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    for name, value in last["state_dict"].items():
        assert torch.equal(value, own[name.removeprefix("network.")])
    assert any(not torch.equal(value, own[name]) for name, value in saved.items())
