"""The watch over the tasks' gradients: what it measures, when, and that training goes on as without it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch

from mtl.training.freezing import FreezePlan, apply_freezing
from mtl.training.gradient_watch import GradientWatch, measure_gradients, top_layer
from tests.support.modules import Waits, module
from tests.support.networks import batch, network

if TYPE_CHECKING:
    from pathlib import Path


class Logged:
    """A logger that keeps what it is given."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.lines.append({**metrics, "step": step})


def trainer(logger: Logged) -> Any:
    return SimpleNamespace(global_step=0, current_epoch=0, loggers=[logger], world_size=1)


def test_norms_and_cosines_of_gradients_known_by_hand() -> None:
    """Losses ``a . E . w``: the gradient at E is ``a w``, the one at w is ``a . E``."""
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    embeddings = torch.eye(2) * 1.0
    embeddings.requires_grad_()
    values = embeddings @ weight
    losses = {"a": values[0], "b": 2 * values[1], "c": -values[0], "d": values.sum()}
    norms, cosines = measure_gradients(losses, [embeddings], [weight])
    assert norms == pytest.approx({"a": 5.0, "b": 10.0, "c": 5.0, "d": math.sqrt(50)})
    half = math.sqrt(0.5)
    expected = {("a", "b"): 0.0, ("a", "c"): -1.0, ("a", "d"): half}
    expected |= {("b", "c"): 0.0, ("b", "d"): half, ("c", "d"): -half}
    assert cosines == {pair: pytest.approx(value, abs=1e-6) for pair, value in expected.items()}
    assert weight.grad is None


def test_the_device_is_waited_for_once() -> None:
    """`tolist` of one tensor, which is no dispatched call; there is no other."""
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    embeddings = torch.eye(2).requires_grad_()
    values = embeddings @ weight
    with Waits() as waits:
        measure_gradients({"a": values[0], "b": 2 * values[1], "c": values.sum()}, [embeddings], [weight])
    assert waits.count == 0


def test_a_gradient_of_0_has_no_direction() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    embeddings = torch.ones(1, 2, requires_grad=True)
    losses = {"a": (embeddings @ weight).sum(), "b": 0 * (embeddings @ weight).sum(), "c": embeddings.sum()}
    norms, cosines = measure_gradients(losses, [embeddings], [weight])
    assert norms["b"] == 0.0
    assert cosines == {}


def test_the_layer_is_the_highest_one_that_learns(tiny_folder: Path) -> None:
    net = network(tiny_folder)
    names = net.encoder.layer_names
    for plan, expected in (
        (dict.fromkeys(names, 0), names[-1]),
        (dict.fromkeys(names[:2], 0), names[1]),
        ({"heads.mood": 0}, None),
    ):
        apply_freezing(net, FreezePlan(plan), 0)
        found = top_layer(net)
        assert (found and found[0]) == expected


def test_it_measures_every_so_many_steps_and_changes_nothing(tiny_folder: Path) -> None:
    found = []
    for every in (None, 2):
        trained = module(tiny_folder, dropout=0.2)
        trained.on_fit_start()
        logger, watch = Logged(), GradientWatch(every or 1)
        state = trainer(logger)
        torch.manual_seed(0)
        for at in range(4):
            state.global_step = at
            loss = trained.training_step(batch(seed=at), 0)
            if every:
                watch.on_before_backward(state, trained, loss)
                watch.on_before_backward(state, trained, loss)  # a second batch of the same optimizer step
            trained.backward(loss)
            trained.on_after_backward()
        assert trained.step is None
        found.append([each.grad for each in trained.parameters()])
    assert [line["step"] for line in logger.lines] == [0, 2]
    assert logger.lines[0].keys() == {
        "train/topic/gradient_norm",
        "train/mood/gradient_norm",
        "train/cosine/topic_mood",
        "epoch",
        "step",
    }
    assert watch.figures is not None
    assert (watch.figures.steps, watch.figures.agreements[0].steps) == (2, 2)
    for one, other in zip(*found, strict=True):
        assert (one is None and other is None) or torch.equal(cast("Any", one), cast("Any", other))


def test_steps_of_one_task_have_norms_and_no_cosine(tiny_folder: Path) -> None:
    trained = module(tiny_folder)
    watch = GradientWatch(1)
    watch.on_before_backward(trainer(Logged()), trained, trained.training_step(batch({"mood": 2}), 0))
    assert watch.figures is not None
    assert watch.figures.norms.keys() == {"mood"}
    assert watch.figures.agreements == []


def test_a_frozen_encoder_is_not_measured(tiny_folder: Path) -> None:
    trained = module(tiny_folder, FreezePlan({"heads.topic": 0, "heads.mood": 0}))
    trained.on_fit_start()
    watch = GradientWatch(1)
    watch.on_before_backward(trainer(Logged()), trained, trained.training_step(batch(), 0))
    assert watch.figures is None


def test_a_resumed_watch_goes_on(tiny_folder: Path) -> None:
    trained = module(tiny_folder)
    one, other = GradientWatch(1), GradientWatch(1)
    for at in range(4):
        state = trainer(Logged())
        state.global_step = at
        if at == 2:
            other.load_state_dict(one.state_dict())
        loss = trained.training_step(batch(seed=at), 0)
        one.on_before_backward(state, trained, loss)
        if at >= 2:
            other.on_before_backward(state, trained, loss)
    assert one.figures == other.figures
    assert one.state_dict() == other.state_dict()
