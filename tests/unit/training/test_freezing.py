"""Freezing: which layers learn from which epoch on, and what that sets in a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from mtl.base.errors import ConfigError
from mtl.training.freezing import FreezePlan, apply_freezing, plan_freezing
from tests.support.configs import gradual
from tests.support.networks import batch, network

if TYPE_CHECKING:
    from pathlib import Path

    from mtl.model.network import MultiTaskNetwork

SIX = ["embeddings", "layer.0", "layer.1", "layer.2", "layer.3", "layer.4", "layer.5"]
TASKS = ["topic", "mood"]
HEADS = {"heads.topic": 0, "heads.mood": 0}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"backbone": "none"}, {**dict.fromkeys(SIX, 0), **HEADS}),
        ({"backbone": "none", "heads": ["mood"]}, {**dict.fromkeys(SIX, 0), "heads.topic": 0}),
        ({"backbone": "none", "heads": "all"}, dict.fromkeys(SIX, 0)),
        ({"backbone": "all"}, HEADS),
        ({"backbone": "all", "heads": ["topic"]}, {"heads.mood": 0}),
        ({"backbone": "all", "heads": "all"}, {}),
        ({"backbone": "lower", "train_layers": 2}, {"layer.4": 0, "layer.5": 0, **HEADS}),
        ({"backbone": "lower", "train_layers": 6}, {**dict.fromkeys(SIX[1:], 0), **HEADS}),
        ({"backbone": "lower", "train_layers": 0.5}, {"layer.3": 0, "layer.4": 0, "layer.5": 0, **HEADS}),
        ({"backbone": "lower", "train_layers": 0.01}, {"layer.5": 0, **HEADS}),
        ({"backbone": "lower", "train_layers": 0.33}, {"layer.4": 0, "layer.5": 0, **HEADS}),
        ({"backbone": "lower", "train_layers": 0.34}, {"layer.3": 0, "layer.4": 0, "layer.5": 0, **HEADS}),
        (
            {"backbone": "gradual", "gradual": gradual(start=0, every=1, layers=0.4)},  # a share, rounded up: 3 of 6
            {**dict.fromkeys(SIX[:4], 1), **dict.fromkeys(SIX[4:], 0), **HEADS},
        ),
        (
            {"backbone": "gradual", "gradual": gradual(start=1, every=1, layers=2)},
            {
                "embeddings": 3,
                "layer.0": 3,
                "layer.1": 3,
                "layer.2": 2,
                "layer.3": 2,
                "layer.4": 1,
                "layer.5": 1,
                **HEADS,
            },
        ),
        (
            {"backbone": "gradual", "gradual": gradual(start=0, every=3, layers=4), "heads": "all"},
            {"embeddings": 3, "layer.0": 3, "layer.1": 3, "layer.2": 0, "layer.3": 0, "layer.4": 0, "layer.5": 0},
        ),
        (
            {"backbone": "gradual", "gradual": gradual(start=2, every=1, layers=9)},
            {**dict.fromkeys(SIX, 2), **HEADS},
        ),
        (
            {"backbone": "gradual", "gradual": gradual(stages={5: 1, 2: 2, 9: 1})},
            {"layer.2": 9, "layer.3": 5, "layer.4": 2, "layer.5": 2, **HEADS},
        ),
        (
            {"backbone": "gradual", "gradual": gradual(unit="steps", stages={0: 1, 70: "all"}), "heads": "all"},
            {**dict.fromkeys(SIX[:6], 70), "layer.5": 0},
        ),
        ({"backbone": "lora", "adapters": ["lora.4", "lora.5"]}, {"lora.4": 0, "lora.5": 0, **HEADS}),
    ],
)
def test_the_first_epoch_of_each_layer(settings: dict[str, Any], expected: dict[str, int]) -> None:
    assert plan_freezing(SIX, TASKS, **settings).first == expected


def test_more_layers_than_there_are() -> None:
    with pytest.raises(ConfigError) as caught:
        plan_freezing(SIX, TASKS, backbone="lower", train_layers=7)
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  freeze.train_layers\n"
        "      found:    7\n"
        "      expected: at most the encoder's 6 layers, or a share of them below 1"
    )


def test_nothing_learns_before_the_first_layers_thaw() -> None:
    with pytest.raises(ConfigError) as caught:
        plan_freezing(SIX, TASKS, backbone="gradual", heads=TASKS, gradual=gradual(start=2, every=1, layers=2))
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  freeze.gradual.start\n"
        "      found:    2, with all heads frozen: nothing learns before epoch 3\n"
        "      expected: 0, or a head that learns\n"
        "      repair:   freeze.gradual.start=0"
    )


@pytest.mark.parametrize("stages", [{0: 4, 3: 3}, {0: 6, 3: "all"}, {3: 7}])
def test_stages_of_more_layers_than_there_are(stages: dict[int, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_freezing(SIX, TASKS, backbone="gradual", gradual=gradual(stages=stages))
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  freeze.gradual.stages\n"
        f"      found:    {', '.join(f'{start}: {count}' for start, count in stages.items())}\n"
        "      expected: together at most the encoder's 6 layers, and some in each stage"
    )


def test_nothing_learns_before_the_first_stage() -> None:
    with pytest.raises(ConfigError) as caught:
        plan_freezing(SIX, TASKS, backbone="gradual", heads=TASKS, gradual=gradual(unit="steps", stages={200: 2}))
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  freeze.gradual.stages\n"
        "      found:    200, with all heads frozen: nothing learns before step 201\n"
        "      expected: 0, or a head that learns\n"
        "      repair:   a stage that starts at 0"
    )


def test_adapters_bound_the_frozen_layers_below_them() -> None:
    plan = plan_freezing(SIX, TASKS, backbone="lora", adapters=["lora.4", "lora.5"])
    assert plan.boundary(0, SIX) == 4
    assert not plan.encoder_is_frozen
    assert plan_freezing(SIX, TASKS, backbone="lora", adapters=["lora.0"]).boundary(0, SIX) is None


def test_stages_name_what_begins_to_learn() -> None:
    plan = plan_freezing(SIX[:4], TASKS, backbone="gradual", gradual=gradual(start=1, every=2, layers=2))
    assert plan.unfreezing == {
        0: ["heads.topic", "heads.mood"],
        1: ["layer.1", "layer.2"],
        3: ["embeddings", "layer.0"],
    }
    assert [len(plan.trainable(epoch)) for epoch in range(5)] == [2, 4, 4, 6, 6]


@pytest.mark.parametrize(
    ("settings", "frozen"),
    [
        ({"backbone": "all"}, True),
        ({"backbone": "all", "heads": "all"}, True),
        ({"backbone": "lower", "train_layers": 1}, False),
        ({"backbone": "gradual", "gradual": gradual(start=9, every=1, layers=1)}, False),
        ({"backbone": "none"}, False),
    ],
)
def test_an_encoder_is_frozen_only_if_no_layer_ever_learns(settings: dict[str, Any], frozen: bool) -> None:
    assert plan_freezing(SIX, TASKS, **settings).encoder_is_frozen is frozen


def learning(network: MultiTaskNetwork) -> set[str]:
    """Return the layers all of whose parameters learn; fail where a layer is divided."""
    states = {
        layer: {parameter.requires_grad for _, parameter in network.layer_parameters(layer)}
        for layer in network.layer_names
    }
    assert all(len(state) == 1 for state in states.values())
    return {layer for layer, state in states.items() if state == {True}}


def in_train_mode(network: MultiTaskNetwork) -> set[str]:
    states = {
        layer: {part.training for module in network.layer_modules(layer) for part in module.modules()}
        for layer in network.layer_names
    }
    assert all(len(state) == 1 for state in states.values())
    return {layer for layer, state in states.items() if state == {True}}


def test_requires_grad_and_modes_follow_the_plan(tiny_folder: Path) -> None:
    net = network(tiny_folder)
    plan = FreezePlan({"layer.2": 0, "layer.1": 2, "heads.mood": 0})
    apply_freezing(net.train(), plan, 0)
    assert learning(net) == in_train_mode(net) == {"layer.2", "heads.mood"}
    apply_freezing(net, plan, 2)
    assert learning(net) == in_train_mode(net) == {"layer.1", "layer.2", "heads.mood"}
    apply_freezing(net, plan, 1)  # back: the state depends on nothing else
    assert learning(net) == in_train_mode(net) == {"layer.2", "heads.mood"}
    apply_freezing(net, FreezePlan({}), 0)
    assert learning(net) == in_train_mode(net) == set()
    assert not any(module.training for module in net.modules())


def test_no_gradient_stays_on_what_is_frozen(tiny_folder: Path) -> None:
    net = network(tiny_folder)
    apply_freezing(net, plan_freezing(net.encoder.layer_names, net.tasks, backbone="none"), 0)
    torch.autograd.backward(torch.stack([logits.sum() for logits in net(batch()).values()]).sum())
    assert all(parameter.grad is not None for parameter in net.parameters())
    apply_freezing(net, FreezePlan({"heads.topic": 0}), 0)
    assert {name for name, parameter in net.named_parameters() if parameter.grad is not None} == {
        "heads.topic_.out.weight",
        "heads.topic_.out.bias",
    }


def test_dropout_is_on_above_the_boundary_and_off_below(tiny_folder: Path) -> None:
    net = network(tiny_folder)
    rows = batch()
    assert rows.ids is not None
    assert rows.mask is not None
    apply_freezing(net, FreezePlan({"layer.2": 0, "heads.mood": 0}), 0)
    below = [net.encoder.hidden_at(rows.ids, rows.mask, 2) for _ in range(2)]
    above = [net.encoder.forward_from(below[0], rows.mask, 2) for _ in range(2)]
    embeddings = above[0].detach()
    assert torch.equal(*below)
    assert not torch.equal(*above)
    assert torch.equal(*(net.head("topic")(embeddings) for _ in range(2)))
    assert not torch.equal(*(net.head("mood")(embeddings) for _ in range(2)))
