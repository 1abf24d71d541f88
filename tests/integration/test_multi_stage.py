"""Heads of two stages: trained under every kind of freezing, saved, loaded, evaluated, borrowed from another task."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from mtl import MultiTaskModel
from mtl.base.errors import MtlError
from mtl.evaluation.run_metrics import read_metrics
from mtl.inference.bulk import predict_to_file
from mtl.model.saved import load_model
from mtl.training.reevaluate import evaluate_run
from tests.support.runs import Probe, data, probed, run
from tests.support.stages import BORROWED, OWN, head, staged

if TYPE_CHECKING:
    from pathlib import Path

    from mtl.training.module import MultiTaskModule

CLASSIFICATION = "heads.classification"
SENTIMENT = "heads.sentiment"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder).network.heads.state_dict()


@pytest.mark.parametrize("override", [OWN, BORROWED], ids=["own", "borrowed"])
@pytest.mark.parametrize("freeze", ["none", "backbone", "classification_head", "gradual"])
def test_a_trained_model_is_saved_and_predicts_the_same(freeze: str, override: str, tmp_path: Path) -> None:
    scored = run(tmp_path / "run", *staged(tmp_path, override), f"freeze={freeze}")
    found = scored["classification"]["test"]
    model = MultiTaskModel.from_pretrained(tmp_path / "run")
    assert model.predict_proba(list(found.predictions.texts))["classification"] == pytest.approx(
        found.predictions.probabilities, abs=2e-6
    )
    assert read_metrics(tmp_path / "run" / "metrics.json").tasks["classification"]["test"] == found.report
    again = evaluate_run(tmp_path / "run", precision="fp32")
    for task, splits in scored.items():
        for split, each in splits.items():
            assert again[task][split].report.confusion == each.report.confusion
    stages, evaluated = found.report.stages, again["classification"]["test"].report.stages
    assert stages is not None
    assert evaluated is not None
    assert (evaluated.first.confusion, evaluated.second) == (stages.first.confusion, stages.second)
    assert evaluated.first_loss == pytest.approx(stages.first_loss, abs=1e-5)


def test_the_report_has_the_figures_of_each_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scored = run(tmp_path / "run", *staged(tmp_path), "trainer.max_epochs=6")["classification"]["test"]
    stages = scored.report.stages
    assert stages is not None
    assert stages.first.labels == ("bad", "good")
    assert {name: report.labels for name, report in stages.second.items()} == {"bad": ("delivery", "price")}
    assert (stages.first.rows, stages.second_rows) == (12, 8)
    probabilities = scored.predictions.probabilities
    truth = [scored.predictions.classes.index(label) for label in scored.predictions.labels]
    loss = -np.log(probabilities[np.arange(12), truth]).mean()
    assert stages.first_loss + stages.second_loss == pytest.approx(loss, rel=1e-5)
    report = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "- **stages**: classification: bad (2 labels), good (1 label)" in report
    assert f"|first|bad/good|12|{stages.first.accuracy:.3f}|" in report.replace(" ", "")
    assert f"|second|bad|8|{stages.second_accuracy:.3f}|" in report.replace(" ", "")
    written = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))["tasks"]
    assert written["classification"]["test"]["stages"]["first"]["confusion"] == stages.first.confusion
    assert "stages" not in written["sentiment"]["test"]
    assert "classification, test, by stage" in capsys.readouterr().out


def test_predictions_show_the_coarse_class(tmp_path: Path) -> None:
    run(tmp_path / "run", *staged(tmp_path))
    model = MultiTaskModel.from_pretrained(tmp_path / "run")
    found = model.predict(["late order", "great picture"])
    for each in found["classification"]:
        assert each.coarse is not None
        assert each.coarse.probabilities == pytest.approx(
            {"bad": each.probabilities["delivery"] + each.probabilities["price"], "good": each.probabilities["screen"]}
        )
        assert each.coarse.label == max(each.coarse.probabilities, key=each.coarse.probabilities.__getitem__)
        assert each.coarse.coarse is None
    assert [each.coarse for each in found["sentiment"]] == [None, None]
    predict_to_file(model, ["late order"], tmp_path / "out.jsonl", precision="fp32")
    row = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
    coarse = found["classification"][0].coarse
    assert coarse is not None
    assert row["classification"]["coarse"]["label"] == coarse.label
    assert row["classification"]["coarse"]["probabilities"] == pytest.approx(coarse.probabilities, abs=1e-5)
    assert row["sentiment"].keys() == {"label", "probabilities"}


def test_a_borrowed_head_is_held_once_and_learns_from_both_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gradient of the head for sentiment is the sum of those of both tasks."""
    seen: list[bool] = []

    def compare(module: MultiTaskModule, batch: object) -> None:
        network = module.network
        parameter = network.head("sentiment").get_parameter("out.weight")
        embeddings = torch.randn(4, 32)
        for task in ("classification", "sentiment"):
            (gradient,) = torch.autograd.grad(network.head(task)(embeddings)[:, 0].sum(), parameter)
            seen.append(bool(gradient.abs().sum() > 0))
        in_optimizer = [each for group in module.optimizers().param_groups for each in group["params"]]  # type: ignore[union-attr]
        assert sum(each is parameter for each in in_optimizer) == 1

    probed(monkeypatch, Probe(before_batch=compare))
    run(tmp_path / "run", *staged(tmp_path, BORROWED), "trainer.max_epochs=1")
    assert seen
    assert all(seen)
    assert sorted(weights(tmp_path / "run")) == [
        "classification_.second.out.bias",
        "classification_.second.out.weight",
        "sentiment_.out.bias",
        "sentiment_.out.weight",
    ]
    report = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "bad (2 labels), good (1 label), decided by the head of sentiment, which learns from both" in report


def test_a_frozen_head_that_is_borrowed_stays_as_it_is(tmp_path: Path) -> None:
    run(tmp_path / "first", *staged(tmp_path, OWN, ["sentiment"])[:-2], "trainer.max_epochs=1")
    start = f"model.init_from={tmp_path / 'first'}"
    run(tmp_path / "run", *staged(tmp_path, BORROWED), start, "freeze=sentiment_head")
    before, after = weights(tmp_path / "first"), weights(tmp_path / "run")
    assert all(torch.equal(after[name], value) for name, value in before.items())
    report = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "decided by the head of sentiment, which is frozen" in report
    assert "untrained" not in report


def test_rows_teach_the_head_that_their_task_borrows(tmp_path: Path) -> None:
    """With all else frozen, the rows of classification still count for the head of sentiment."""
    frozen = ["freeze=backbone", "freeze.heads=[classification]", "trainer.max_epochs=1"]
    ours = staged(tmp_path, BORROWED)
    run(tmp_path / "borrowed", *ours, *frozen)
    run(tmp_path / "own", *staged(tmp_path, OWN), *frozen)
    borrowed, own = (read_metrics(tmp_path / name / "metrics.json") for name in ("borrowed", "own"))
    assert borrowed.cost.trainable_parameters == own.cost.trainable_parameters == 66
    assert not torch.equal(*(weights(tmp_path / name)["sentiment_.out.weight"] for name in ("borrowed", "own")))


def test_an_untrained_head_that_is_borrowed_is_warned_of(tmp_path: Path) -> None:
    run(tmp_path / "run", *staged(tmp_path, BORROWED), "freeze=sentiment_head", "trainer.max_epochs=1")
    warnings = read_metrics(tmp_path / "run" / "metrics.json").run["warnings"]
    assert warnings[1] == "The first stage of classification is the head of sentiment, which is untrained."


def test_accumulation_changes_nothing_but_the_number_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = probed(monkeypatch, Probe())
    run(tmp_path / "run", *staged(tmp_path, BORROWED), "trainer.accumulate_grad_batches=2", "trainer.max_epochs=1")
    assert probe.optimizer_steps == 3  # 36 rows of the longer task, 8 in a batch, 2 batches in a step


@pytest.mark.parametrize("override", [OWN, BORROWED], ids=["own", "borrowed"])
def test_training_goes_on_from_a_saved_model(override: str, tmp_path: Path) -> None:
    first = run(tmp_path / "first", *staged(tmp_path, override))
    again = run(tmp_path / "again", *data(tmp_path), "freeze=all", f"model.init_from={tmp_path / 'first'}")
    for task, splits in first.items():
        for split, scored in splits.items():
            assert again[task][split].predictions.probabilities == pytest.approx(
                scored.predictions.probabilities, abs=1e-6
            )


def test_a_lender_without_data_is_kept_and_frozen(tmp_path: Path) -> None:
    run(tmp_path / "first", *staged(tmp_path, BORROWED), "trainer.max_epochs=1")
    start = f"model.init_from={tmp_path / 'first'}"
    run(tmp_path / "again", *data(tmp_path, ["classification"]), start, "freeze=backbone", "trainer.max_epochs=1")
    before, after = (load_model(tmp_path / name).network.head("sentiment") for name in ("first", "again"))
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items())


def test_a_borrower_without_data_is_stale_where_its_lender_is_trained(tmp_path: Path) -> None:
    run(tmp_path / "first", *staged(tmp_path, BORROWED), "trainer.max_epochs=1")
    start = f"model.init_from={tmp_path / 'first'}"
    run(tmp_path / "again", *data(tmp_path, ["sentiment"]), start, "freeze=backbone", "trainer.max_epochs=1")
    assert load_model(tmp_path / "again").tasks["classification"].stale


def test_trees_that_do_not_fit_the_labels_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    """Together with the weights that are missing."""
    tree = head("tree: {bad: [delivery, prise], neutral: [screen]}", "first_stage: {task: sentiment}")
    separated = head("separator: '/'", task="sentiment")
    with pytest.raises(MtlError) as caught:
        run(tmp_path / "run", *data(tmp_path), tree, separated, "backbone.random=false", f"backbone.path={tmp_path}/no")
    text = str(caught.value)
    assert f"{tmp_path}/no" in text
    place = "heads.tasks.classification"
    assert text.endswith(
        "  heads.tasks.sentiment.separator\n"
        "      found:    '/', which no label of sentiment has\n"
        "      expected: what divides a label: bad, good\n"
        "      repair:   give heads.tasks.sentiment.tree={coarse class: [labels]}\n"
        f"  {place}.tree.bad\n"
        "      found:    the label 'prise', which classification does not have\n"
        "      expected: delivery, price, screen\n"
        "      repair:   did you mean price?\n"
        f"  {place}.tree\n"
        "      found:    no branch for the label 'price'\n"
        "      expected: each label of classification in one branch\n"
        "      repair:   add it to bad, neutral\n"
        f"  {place}.first_stage\n"
        "      found:    'neutral', for which the head of sentiment has no class\n"
        "      expected: coarse classes among the labels of sentiment: bad, good\n"
        f"      repair:   name it with {place}.first_stage.map={{neutral: …}}, or leave first_stage out for "
        "one of its own"
    )
