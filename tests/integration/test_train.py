"""Training: what a step does, when training stops, what is kept, and what a seed decides."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch

from mtl import MultiTaskModel
from mtl.activations.frozen import FrozenActivations
from mtl.data.batch import Boundary
from mtl.evaluation.run_metrics import read_metrics
from mtl.model.saved import load_model
from tests.support.runs import Probe, data, probed, rows, run

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from mtl.data.batch import Batch
    from mtl.training.module import MultiTaskModule

FAST = ["learning_rates=uniform", "learning_rates.heads=0.01", "learning_rates.backbone=0.003"]


def test_a_step_runs_the_encoder_once_over_the_rows_of_all_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    steps: list[tuple[int, list[int], dict[str, int]]] = []

    def listen(module: MultiTaskModule) -> None:
        def count(*call: Any) -> None:
            if torch.is_grad_enabled():  # not in a validation
                calls.append(len(call[2]))

        module.network.encoder.register_forward_hook(count)

    def look(_: MultiTaskModule, batch: Batch) -> None:
        steps.append((len(batch), list(calls), batch.sizes))
        calls.clear()

    probed(monkeypatch, Probe(on_start=listen, after_batch=look))
    run(tmp_path / "run", *data(tmp_path), "trainer.max_epochs=2")
    assert len(steps) == 10
    for count, encoded, sizes in steps:
        assert encoded == [count] == [sizes["classification"] + sizes["sentiment"]]


def by_hand(module: MultiTaskModule, batch: Batch, weights: dict[str, float]) -> dict[str, float]:
    """Return the losses of a step, drawing the same dropout as the step that follows."""
    state = torch.get_rng_state()
    assert batch.ids is not None
    assert batch.mask is not None
    embeddings = module.network.encoder(batch.ids, batch.mask)  # with gradients: rows run in groups then
    losses = {}
    for task, span in batch.slices.items():
        probabilities = torch.softmax(module.network.head(task)(embeddings[span]), dim=1)
        right = probabilities[torch.arange(len(probabilities)), batch.labels[task]]
        losses[f"train/{task}/loss"] = -right.log().mean().item()
    torch.set_rng_state(state)
    total = sum(weights.get(name.split("/")[1], 1.0) * loss for name, loss in losses.items())
    return {**losses, "train/loss": total}


@pytest.mark.parametrize("weights", [{}, {"sentiment": 0.25}])
def test_the_loss_of_each_step_is_the_sum_worked_out_by_hand(
    weights: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: list[dict[str, float]] = []
    found: list[dict[str, float]] = []

    def before(module: MultiTaskModule, batch: Batch) -> None:
        expected.append(by_hand(module, batch, weights))

    def after(module: MultiTaskModule, _: Batch) -> None:
        found.append({name: float(module.step_log.figures[name]) for name in expected[-1]})

    probed(monkeypatch, Probe(before_batch=before, after_batch=after))
    overrides = [f"loss.weights.{task}={weight}" for task, weight in weights.items()]
    overrides += ["loss=weighted"] if weights else []
    every = "trainer.log_every_n_steps=1"
    run(tmp_path / "run", *data(tmp_path), *FAST, *overrides, every, "trainer.max_epochs=2")
    assert len(found) == 10
    assert found == [pytest.approx(each, rel=1e-5) for each in expected]


@pytest.mark.parametrize("mode", ["paired", "round_robin", "proportional", "temperature"])
def test_every_interleaving_shows_each_task_its_rows(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Counter[tuple[str, int]] = Counter()
    steps: list[tuple[str, ...]] = []

    def look(_: MultiTaskModule, batch: Batch) -> None:
        steps.append(batch.tasks)
        seen.update((task, index) for task, indices in batch.indices.items() for index in indices.tolist())

    probed(monkeypatch, Probe(after_batch=look))
    run(tmp_path / "run", *data(tmp_path), f"data.interleave={mode}", "trainer.max_epochs=1")
    classification = {("classification", index) for index in range(36)}
    sentiment = {("sentiment", index) for index in range(24)}
    if mode == "paired":  # 5 batches of classification, so 5 of the 3 of sentiment
        assert steps == [("classification", "sentiment")] * 5
        assert set(seen) == classification | sentiment
        assert {seen[each] for each in classification} == {1}
        assert {seen[each] for each in sentiment} == {1, 2}
    elif mode == "temperature":
        assert len(steps) == 8
        assert {task for (task,) in steps} == {"classification", "sentiment"}
    else:
        assert Counter(steps) == {("classification",): 5, ("sentiment",): 3}
        assert seen == dict.fromkeys(classification | sentiment, 1)


def test_three_tasks_with_different_classes_one_of_them_numbers(tmp_path: Path) -> None:
    tasks = ("classification", "sentiment", "stars")
    scored = run(tmp_path / "run", *data(tmp_path, tasks), *FAST, "trainer.max_epochs=2")
    labels = {task: tuple(scored[task]["test"].report.labels) for task in tasks}
    assert labels == {
        "classification": ("delivery", "price", "screen"),
        "sentiment": ("bad", "good"),
        "stars": ("1", "2", "3", "4", "5"),
    }
    model = MultiTaskModel.from_pretrained(tmp_path / "run")
    assert model.labels == labels
    assert {task: found.shape for task, found in model.predict_proba(["nice phone"]).items()} == {
        "classification": (1, 3),
        "sentiment": (1, 2),
        "stars": (1, 5),
    }


def test_the_labels_of_the_configuration_keep_their_order(tmp_path: Path) -> None:
    files = data(tmp_path, ["stars"], train=4)
    scored = run(tmp_path / "run", *files, "data.tasks.stars.labels=[5,4,3,2,1]", "trainer.max_epochs=1")
    assert scored["stars"]["test"].report.labels == ("5", "4", "3", "2", "1")


def test_one_task_learns_what_gives_its_labels_away(tmp_path: Path) -> None:
    scored = run(tmp_path / "run", *data(tmp_path, ["sentiment"], train=48), *FAST, "trainer.max_epochs=12")
    assert scored.keys() == {"sentiment"}
    assert scored["sentiment"]["val"].report.accuracy == 1.0  # rows it has not seen; so with each of ten seeds


def test_heads_with_a_hidden_layer(tmp_path: Path) -> None:
    run(tmp_path / "run", *data(tmp_path), "heads=mlp", "heads.default.hidden=7", "trainer.max_epochs=1")
    saved = load_model(tmp_path / "run")
    shapes = {name: tuple(value.shape) for name, value in saved.network.head("sentiment").state_dict().items()}
    assert shapes == {"hidden.weight": (7, 32), "hidden.bias": (7,), "out.weight": (2, 7), "out.bias": (2,)}
    assert {task.head.kind for task in saved.tasks.values()} == {"mlp"}


def test_one_task_has_a_head_of_its_own_kind(tmp_path: Path) -> None:
    own = "heads.tasks.sentiment={kind: mlp, dropout: 0.2, hidden: 5}"
    run(tmp_path / "run", *data(tmp_path), own, "trainer.max_epochs=1")
    kinds = {name: task.head.kind for name, task in load_model(tmp_path / "run").tasks.items()}
    assert kinds == {"classification": "linear", "sentiment": "mlp"}


def state_of(folder: Path) -> dict[str, Tensor]:
    return dict(load_model(folder).network.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("freeze", ["none", "backbone", "gradual"])
def test_a_seed_decides_every_bit(freeze: str, tmp_path: Path) -> None:
    files = data(tmp_path)
    for name, seed in ("one", 5), ("same", 5), ("other", 6):
        run(tmp_path / name, *files, *FAST, f"freeze={freeze}", "trainer.max_epochs=2", f"seed={seed}")
    assert same(state_of(tmp_path / "one"), state_of(tmp_path / "same"))
    assert not same(state_of(tmp_path / "one"), state_of(tmp_path / "other"))
    one, other = (read_metrics(tmp_path / name / "metrics.json").tasks for name in ("one", "same"))
    assert one == other


@pytest.mark.usefixtures("whole_embeddings")
def test_a_saved_model_is_where_the_next_training_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "first", *data(tmp_path, ["sentiment"]), *FAST, "trainer.max_epochs=2")
    starts: list[dict[str, Tensor]] = []

    def keep(module: MultiTaskModule) -> None:
        starts.append({name: value.clone() for name, value in module.network.state_dict().items()})

    probed(monkeypatch, Probe(on_start=keep))
    again = [f"model.init_from={tmp_path / 'first'}", "trainer.max_epochs=1", "heads=mlp", "backbone.max_length=32"]
    run(tmp_path / "next", *data(tmp_path), *FAST, *again)
    kept = "from the saved model: encoder (up to 64 tokens), head of sentiment (linear, dropout 0.1)"
    assert kept in (tmp_path / "next" / "report.md").read_text(encoding="utf-8").replace("*", "")
    first = state_of(tmp_path / "first")
    assert {name: value for name, value in starts[0].items() if "classification" not in name}.keys() == first.keys()
    assert all(torch.equal(value, starts[0][name]) for name, value in first.items())
    assert not same(state_of(tmp_path / "next"), starts[0])
    assert list(load_model(tmp_path / "next").tasks) == ["classification", "sentiment"]


def test_warnings_about_data_come_once_and_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    files = data(tmp_path, ["sentiment"], train=25)
    before: list[str] = []
    probed(monkeypatch, Probe(on_start=lambda _: before.extend([*caplog.messages, capfd.readouterr().out])))
    run(tmp_path / "run", *files[:2], files[1].replace(".train=", ".val="), "backbone.max_length=4", *FAST)
    warnings = read_metrics(tmp_path / "run" / "metrics.json").run["warnings"]
    assert isinstance(warnings, list)
    of_data = [text for text in warnings if "calibrate" not in text]
    assert [text.split()[:6] for text in of_data] == [
        ["sentiment:", "of", "the", "50", "rows", "of"],
        ["sentiment:", "44", "of", "50", "rows", "in"],
        ["sentiment:", "6", "of", "6", "rows", "in"],
        ["100", "of", "100", "texts", "of", "sentiment"],
    ]
    assert [text.removeprefix("warning: ") for text in before if text.startswith("warning: ")] == of_data
    assert "Plan of an epoch" in before[-1]
    assert [sum(text in message for message in caplog.messages) for text in of_data] == [1, 1, 1, 1]
    assert "rows in val have a text" not in capfd.readouterr().out


def test_the_plan_is_printed_before_anything_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    printed: list[str] = []
    compute = FrozenActivations.at

    def at(self: FrozenActivations, boundary: Boundary) -> Any:
        printed.append(capfd.readouterr().out)
        return compute(self, boundary)

    monkeypatch.setattr(FrozenActivations, "at", at)
    run(tmp_path / "run", *data(tmp_path), *FAST, "freeze=backbone", "trainer.max_epochs=1")
    assert "Plan of an epoch" in printed[0]


def test_training_stops_when_the_monitored_figure_no_longer_rises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a rate that changes no prediction the first validation is the best: two more, and it is over."""
    probe = probed(monkeypatch, Probe())
    still = ["learning_rates.heads=1e-12", "learning_rates.backbone=1e-12"]
    stop = ["callbacks=early_stopping", "callbacks.early_stopping.patience=2", "trainer.max_epochs=20"]
    run(tmp_path / "run", *data(tmp_path), *FAST, *still, *stop)
    assert len(probe.figures) == 3
    assert len({figures["val/macro_f1"] for figures in probe.figures}) == 1


def spoil_the_last_epoch(epochs: int) -> Probe:
    """Return a probe that sets what learns of the heads to nothing with each step of the last epoch."""

    def spoil(module: MultiTaskModule, _: Batch) -> None:
        if module.current_epoch == epochs - 1:
            with torch.no_grad():
                for parameter in module.network.heads.parameters():
                    parameter.mul_(0.0 if parameter.requires_grad else 1.0)

    return Probe(after_batch=spoil)


@pytest.mark.parametrize(
    ("freeze", "monitor"),
    [
        ("none", "val/macro_f1"),
        ("none", "val/sentiment/accuracy"),
        ("backbone", "val/macro_f1"),
        ("sentiment_head", "val/classification/accuracy"),
    ],
)
def test_the_best_checkpoint_is_what_is_evaluated_and_saved(
    freeze: str, monitor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = probed(monkeypatch, spoil_the_last_epoch(6))
    chosen = [f"freeze={freeze}", f"callbacks.monitor={monitor}", "trainer.max_epochs=6"]
    scored = run(tmp_path / "run", *data(tmp_path), *FAST, *chosen)
    figures = [each[monitor] for each in probe.figures]
    assert max(figures) > figures[-1]
    best = probe.figures[figures.index(max(figures))]
    for task, splits in scored.items():
        report = splits["val"].report
        for name in ("accuracy", "macro_f1", "weighted_f1"):
            assert getattr(report, name) == pytest.approx(best[f"val/{task}/{name}"], abs=1e-6)
    assert_model_gives(tmp_path / "run", {task: splits["val"].report.accuracy for task, splits in scored.items()})


def assert_model_gives(folder: Path, accuracies: dict[str, float]) -> None:
    """Fail unless the saved model has these accuracies on the validation rows."""
    model = MultiTaskModel.from_pretrained(folder)
    for task, accuracy in accuracies.items():
        texts, labels = zip(*rows(task, 4, start=12), strict=True)
        predicted = [each.label for each in model.predict(texts)[task]]
        right = sum(one == other for one, other in zip(predicted, labels, strict=True))
        assert right / len(labels) == pytest.approx(accuracy)


def test_the_last_state_is_kept_if_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = probed(monkeypatch, spoil_the_last_epoch(3))
    scored = run(tmp_path / "run", *data(tmp_path), *FAST, "callbacks.keep_best=false", "trainer.max_epochs=3")
    assert not any(value.any() for value in load_model(tmp_path / "run").network.heads.state_dict().values())
    for task, splits in scored.items():
        assert splits["val"].report.macro_f1 == pytest.approx(probe.figures[-1][f"val/{task}/macro_f1"], abs=1e-6)
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["last.ckpt"]


def test_debug_is_quick_whatever_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps, three batches of rows of each split, and no error analysis."""
    probe = probed(monkeypatch, Probe())
    files = data(tmp_path, train=70, other=200)
    flags = ["trainer=debug", "freeze=backbone", "data.batch_size=8", "data.eval_batch_size=16"]
    scored = run(tmp_path / "run", *files, *flags)
    assert probe.optimizer_steps == 3
    counts = {
        task: {split: len(each.predictions.texts) for split, each in found.items()} for task, found in scored.items()
    }
    assert counts == {task: {"val": 48, "test": 48} for task in ("classification", "sentiment")}
    assert sum(read_metrics(tmp_path / "run" / "metrics.json").run["training_rows"]["sentiment"].values()) == 24
    assert not (tmp_path / "run" / "errors").exists()
