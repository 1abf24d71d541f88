"""Callbacks: what they count, and the lines that they write."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mtl.evaluation.records import EpochFigures
from mtl.training import callbacks
from mtl.training.callbacks import CostMeter, EpochLines, History, UnfreezingLines
from mtl.training.freezing import FreezePlan
from tests.support.networks import batch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that a test sets: ``clock.now``, in seconds."""
    state = SimpleNamespace(now=0.0)
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(perf_counter=lambda: state.now))
    return state


def trainer(**state: Any) -> Any:
    figures = {"val/mood/macro_f1": torch.tensor(0.81234), "val/topic/macro_f1": torch.tensor(0.5)}
    default = {"current_epoch": 0, "max_epochs": 3, "sanity_checking": False, "is_global_zero": True}
    default["accumulate_grad_batches"] = 1
    return SimpleNamespace(callback_metrics=figures, **{**default, **state})


def module(plan: FreezePlan) -> Any:
    return SimpleNamespace(freezing=plan)


def activations(**seconds: float | None) -> Any:
    return SimpleNamespace(seconds_spent=0.0, seconds_cold={**seconds})


def test_cost_counts_the_rows_of_all_tasks_and_the_seconds_of_the_fit(clock: SimpleNamespace) -> None:
    cost, nothing = CostMeter(activations()), module(FreezePlan({}))
    clock.now = 10.0
    cost.on_fit_start(trainer(), nothing)
    for at, rows in enumerate([4, 3]):
        cost.on_train_batch_end(trainer(global_step=at + 1), nothing, None, batch({"mood": 2, "topic": 3}, rows), at)
    clock.now = 12.5
    cost.on_fit_end(trainer(), nothing)
    assert (cost.seconds, cost.rows, cost.last_step) == (2.5, 14, 1)
    assert cost.encoding_seconds == 0


def test_encoding_within_the_fit_counts_apart_at_what_it_takes_with_an_empty_cache(clock: SimpleNamespace) -> None:
    """A second of reading a warm cache is left out of the training; a resumed run knows of boundaries passed before."""
    of_run, nothing = activations(), module(FreezePlan({}))
    cost = CostMeter(of_run)
    clock.now = 10.0
    cost.on_fit_start(trainer(), nothing)
    clock.now, of_run.seconds_spent, of_run.seconds_cold = 13.0, 1.0, {4: 20.0}
    kept = cost.state_dict()
    assert kept["seconds"] == 2.0
    later = activations()
    resumed = CostMeter(later)
    resumed.load_state_dict(kept)
    clock.now = 100.0
    resumed.on_fit_start(trainer(), nothing)
    clock.now, later.seconds_spent = 104.0, 3.0
    later.seconds_cold["embedding"] = 5.0
    resumed.on_fit_end(trainer(), nothing)
    assert (resumed.seconds, resumed.encoding_seconds) == (3.0, 25.0)
    later.seconds_cold["embedding"] = None
    assert resumed.encoding_seconds is None


def lines_after(*losses: float | dict[str, torch.Tensor], clock: SimpleNamespace, **state: Any) -> list[str]:
    """Return what is written for an epoch of the steps with these losses, which takes 61.7 seconds."""
    written: list[str] = []
    lines = EpochLines(("mood", "topic"), written.append)
    clock.now = 100.0
    lines.on_train_start(trainer(), module(FreezePlan({})))
    for at, loss in enumerate(losses):
        outputs = loss if isinstance(loss, dict) else torch.tensor(loss)
        lines.on_train_batch_end(trainer(), module(FreezePlan({})), outputs, batch(), at)
    clock.now = 161.7
    lines.on_validation_end(trainer(**state), module(FreezePlan({})))
    return written


def test_a_line_per_epoch(clock: SimpleNamespace) -> None:
    assert lines_after(1.0, {"loss": torch.tensor(2.0)}, clock=clock) == [
        "epoch 1/3  train loss 1.500  val macro-F1: mood 0.812, topic 0.500  (62 s)"
    ]


@pytest.mark.parametrize(("max_epochs", "shown"), [(None, "epoch 6/?"), (-1, "epoch 6/?"), (8, "epoch 6/8")])
def test_the_number_of_epochs_may_be_open(clock: SimpleNamespace, max_epochs: int | None, shown: str) -> None:
    (line,) = lines_after(1.0, clock=clock, current_epoch=5, max_epochs=max_epochs)
    assert re.split("  ", line)[0] == shown


def test_a_loss_is_not_divided_by_the_batches_of_a_step(clock: SimpleNamespace) -> None:
    """As Lightning does it in what it gives to callbacks."""
    written: list[str] = []
    lines, history = EpochLines(("mood",), written.append), History()
    accumulating, nothing = trainer(accumulate_grad_batches=4), module(FreezePlan({}))
    for at, loss in enumerate([2.0, 4.0]):
        for callback in (lines, history):
            callback.on_train_batch_end(accumulating, nothing, {"loss": torch.tensor(loss / 4)}, batch(), at)
    for callback in (lines, history):
        callback.on_train_epoch_end(accumulating, nothing)
    assert written == ["epoch 1/3  train loss 3.000  (0 s)"]
    assert history.epochs == [EpochFigures(1, 3.0, {})]


def test_an_epoch_without_validation_has_its_line(clock: SimpleNamespace) -> None:
    written: list[str] = []
    lines, nothing = EpochLines(("mood",), written.append), module(FreezePlan({}))
    for epoch in range(3):
        state = trainer(current_epoch=epoch)
        lines.on_train_batch_end(state, nothing, torch.tensor(float(epoch)), batch(), 0)
        if epoch == 1:
            lines.on_validation_end(state, nothing)
        lines.on_train_epoch_end(state, nothing)
    assert written == [
        "epoch 1/3  train loss 0.000  (0 s)",
        "epoch 2/3  train loss 1.000  val macro-F1: mood 0.812  (0 s)",
        "epoch 3/3  train loss 2.000  (0 s)",
    ]


@pytest.mark.parametrize("validated", [False, True])
def test_no_process_keeps_a_tensor_for_each_step(validated: bool, clock: SimpleNamespace) -> None:
    written: list[str] = []
    lines, nothing, other = EpochLines((), written.append), module(FreezePlan({})), trainer(is_global_zero=False)
    for at in range(100):
        lines.on_train_batch_end(other, nothing, torch.tensor(1.0), batch(), at)
    assert lines.state_dict() == {"seconds": 0.0, "written": False, "sum": 100.0, "steps": 100}
    if validated:
        lines.on_validation_end(other, nothing)
    lines.on_train_epoch_end(other, nothing)
    assert lines.state_dict() == {"seconds": 0.0, "written": False, "sum": 0.0, "steps": 0}
    assert written == []


def test_tasks_that_are_not_validated_are_not_shown(clock: SimpleNamespace) -> None:
    written: list[str] = []
    state = trainer()
    del state.callback_metrics["val/mood/macro_f1"]
    EpochLines(("mood", "topic"), written.append).on_validation_end(state, module(FreezePlan({})))
    assert written == ["epoch 1/3  train loss nan  val macro-F1: topic 0.500  (0 s)"]


@pytest.mark.parametrize("state", [{"sanity_checking": True}, {"is_global_zero": False}])
def test_silent_before_training_and_on_other_processes(clock: SimpleNamespace, state: dict[str, Any]) -> None:
    assert lines_after(1.0, clock=clock, **state) == []


def test_the_loss_is_that_since_the_last_validation(clock: SimpleNamespace) -> None:
    written: list[str] = []
    lines = EpochLines((), written.append)
    for loss in (1.0, 3.0):
        lines.on_train_batch_end(trainer(), module(FreezePlan({})), torch.tensor(loss), batch(), 0)
        lines.on_validation_end(trainer(), module(FreezePlan({})))
    assert [line.split("  ")[1] for line in written] == ["train loss 1.000", "train loss 3.000"]


def stages_told(steps: list[tuple[int, int]], stages: dict[int, str]) -> list[str]:
    """Return what is written for batches of the given epochs and optimizer steps."""
    written: list[str] = []
    lines = UnfreezingLines(stages, written.append)
    for at, (epoch, step) in enumerate(steps):
        state = trainer(current_epoch=epoch, global_step=step)
        lines.on_train_batch_start(state, module(FreezePlan({})), batch(), at)
    return written


def test_each_stage_of_unfreezing_is_told_once_where_it_begins() -> None:
    steps = [(0, 0), (0, 0), (0, 1), (0, 2), (1, 3), (1, 4), (1, 5)]
    assert stages_told(steps, {0: "the heads", 2: "and layer.1", 4: "all"}) == [
        "epoch 1, step 1: the heads",
        "epoch 1, step 3: and layer.1",
        "epoch 2, step 5: all",
    ]


def test_a_training_that_goes_on_within_a_stage_tells_it() -> None:
    assert stages_told([(1, 3), (1, 4)], {0: "the heads", 2: "and layer.1", 9: "all"}) == [
        "epoch 2, step 4: and layer.1"
    ]


def test_where_nothing_is_gradual_no_stage_is_told() -> None:
    assert stages_told([(0, 0), (1, 1)], {}) == []


def test_the_history_keeps_each_epoch_with_its_own_validation_only() -> None:
    history = History()
    for epoch, validated in ((0, True), (1, False)):
        for loss in (1.0, 2.0 + epoch):
            history.on_train_batch_end(trainer(), module(FreezePlan({})), torch.tensor(loss), batch(), 0)
        if validated:
            history.on_validation_end(trainer(), module(FreezePlan({})))
        history.on_train_epoch_end(trainer(current_epoch=epoch), module(FreezePlan({})))
    scores = {"mood": float(torch.tensor(0.81234)), "topic": 0.5}
    assert history.epochs == [EpochFigures(1, 1.5, scores), EpochFigures(2, 2.0, {})]


def test_the_history_knows_nothing_of_the_check_before_training() -> None:
    history = History()
    history.on_validation_end(trainer(sanity_checking=True), module(FreezePlan({})))
    history.on_train_batch_end(trainer(), module(FreezePlan({})), torch.tensor(1.0), batch(), 0)
    history.on_train_epoch_end(trainer(), module(FreezePlan({})))
    assert history.epochs[0].val_macro_f1 == {}
