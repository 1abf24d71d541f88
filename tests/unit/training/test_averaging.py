"""Averaging of weights, step by step on a module without a trainer."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from mtl.training.averaging import AveragedWeights
from mtl.training.freezing import FreezePlan
from tests.support.modules import module
from tests.support.networks import batch

if TYPE_CHECKING:
    from pathlib import Path

    from mtl.training.module import MultiTaskModule

GRADUAL = FreezePlan({"layer.1": 2, "heads.topic": 0, "heads.mood": 0})


class Training:
    """A training whose optimizer fills all weights that learn with a number."""

    def __init__(self, net: MultiTaskModule, averaged: AveragedWeights, step: int = 0) -> None:
        self.net, self.averaged = net, averaged
        state: Any = SimpleNamespace(global_step=step)
        self.trainer = state
        averaged.on_fit_start(state, net)

    def step(self, value: float, *, optimizer: bool = True) -> None:
        self.averaged.on_train_batch_start(self.trainer, self.net, batch(), 0)
        if optimizer:
            self.trainer.global_step += 1
            fill(self.net, value, self.net.freezing.trainable(self.trainer.global_step - 1))
        self.averaged.on_train_batch_end(self.trainer, self.net, None, batch(), 0)


def fill(net: MultiTaskModule, value: float, layers: Any) -> None:
    with torch.no_grad():
        for layer in layers:
            for _, parameter in net.network.layer_parameters(layer):
                parameter.fill_(value)


def values(net: MultiTaskModule, layer: str) -> set[float]:
    """Return the different values of a layer's weights, to five digits."""
    found = torch.cat([parameter.detach().flatten() for _, parameter in net.network.layer_parameters(layer)])
    return {round(value, 5) for value in found.tolist()}


@pytest.fixture
def net(tiny_folder: Path) -> MultiTaskModule:
    """A module whose weights are all 0."""
    found = module(tiny_folder, GRADUAL)
    fill(found, 0.0, found.network.layer_names)
    return found


def test_the_average_by_hand(net: MultiTaskModule) -> None:
    averaged = AveragedWeights(0.12)
    training = Training(net, averaged)
    training.step(10.0)  # decay 1 / 10: 0.1 * 0 + 0.9 * 10
    training.step(20.0)  # decay 0.12, less than 2 / 11: 0.12 * 9 + 0.88 * 20
    averaged.on_validation_start(training.trainer, net)
    assert values(net, "heads.topic") == {18.68}


def test_training_goes_on_with_its_own_weights(net: MultiTaskModule) -> None:
    averaged = AveragedWeights(0.5)
    training = Training(net, averaged)
    training.step(10.0)
    for _ in range(2):
        averaged.on_validation_start(training.trainer, net)
    assert values(net, "heads.mood") == {9.0}
    averaged.on_train_batch_start(training.trainer, net, batch(), 1)
    assert values(net, "heads.mood") == {10.0}
    averaged.on_validation_start(training.trainer, net)
    averaged.on_train_epoch_end(training.trainer, net)
    assert values(net, "heads.mood") == {10.0}
    averaged.on_train_end(training.trainer, net)
    assert values(net, "heads.mood") == {9.0}


def test_batches_without_an_optimizer_step_do_not_count(net: MultiTaskModule) -> None:
    averaged = AveragedWeights(0.9)
    training = Training(net, averaged)
    training.step(10.0)
    training.step(10.0, optimizer=False)
    averaged.on_train_end(training.trainer, net)
    assert values(net, "heads.mood") == {9.0}


def test_a_layer_that_thaws_late_begins_with_its_first_step_and_frozen_ones_stay(net: MultiTaskModule) -> None:
    averaged = AveragedWeights(0.9)
    training = Training(net, averaged)
    training.step(10.0)
    training.step(10.0)
    training.step(10.0)
    averaged.on_validation_start(training.trainer, net)
    assert values(net, "layer.1") == {9.0}
    assert values(net, "heads.mood") == {round(10 - 10 * (1 / 10) * (2 / 11) * (3 / 12), 5)}
    assert values(net, "layer.0") == values(net, "embeddings") == {0.0}
    kept = averaged.state_dict()["averages"]
    assert kept.keys() == {name for layer in GRADUAL.first for name, _ in net.network.layer_parameters(layer)}


def test_a_resumed_training_goes_on_with_the_averages(net: MultiTaskModule) -> None:
    first = AveragedWeights(0.9)
    training = Training(net, first)
    for value in (10.0, 20.0, 30.0):
        training.step(value)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    training.step(40.0)
    first.on_train_end(training.trainer, net)
    expected = values(net, "heads.mood")

    fill(net, 30.0, ["heads.mood", "heads.topic"])
    second = AveragedWeights(0.9)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    resumed = Training(net, second, step=3)
    resumed.step(40.0)
    second.on_train_end(resumed.trainer, net)
    assert values(net, "heads.mood") == expected
