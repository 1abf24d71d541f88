"""Learning rates of the layers, and the parameter groups that carry them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mtl.base.errors import ConfigError
from mtl.training.freezing import FreezePlan, plan_freezing
from mtl.training.learning_rates import (
    LayerRate,
    decayed_rates,
    layerwise_rates,
    parameter_groups,
    uniform_rates,
)
from tests.support.configs import gradual
from tests.support.networks import network

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = ["embeddings", "layer.0", "layer.1", "layer.2", "layer.3"]


@pytest.mark.parametrize(
    ("upper_layers", "upper"),
    [
        (1, ["layer.3"]),
        (4, ["layer.0", "layer.1", "layer.2", "layer.3"]),
        (0.5, ["layer.2", "layer.3"]),
        (0.51, ["layer.1", "layer.2", "layer.3"]),
        (0.01, ["layer.3"]),
    ],
)
def test_layerwise_rates(upper_layers: float, upper: list[str]) -> None:
    rates = layerwise_rates(LAYERS, heads=1e-3, upper=2e-4, lower=5e-5, upper_layers=upper_layers)
    lower = [layer for layer in LAYERS if layer not in upper]
    assert rates == {
        **dict.fromkeys(lower, LayerRate("lower", 5e-5)),
        **dict.fromkeys(upper, LayerRate("upper", 2e-4)),
        "heads": LayerRate("heads", 1e-3),
    }
    assert list(rates) == [*LAYERS, "heads"]


def test_more_upper_layers_than_there_are() -> None:
    with pytest.raises(ConfigError) as caught:
        layerwise_rates(LAYERS, heads=1e-3, upper=2e-4, lower=5e-5, upper_layers=5)
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  learning_rates.upper_layers\n"
        "      found:    5\n"
        "      expected: at most the encoder's 4 layers, or a share of them below 1"
    )


def test_decayed_rates() -> None:
    rates = decayed_rates(LAYERS, heads=1e-3, top=1e-4, factor=0.5)
    assert {name: rate.rate for name, rate in rates.items()} == pytest.approx(
        {
            "embeddings": 6.25e-6,
            "layer.0": 1.25e-5,
            "layer.1": 2.5e-5,
            "layer.2": 5e-5,
            "layer.3": 1e-4,
            "heads": 1e-3,
        },
        rel=1e-12,
    )
    assert all(rate.group == name for name, rate in rates.items())
    assert list(rates) == [*LAYERS, "heads"]


def test_a_factor_of_1_is_one_rate_for_all_layers() -> None:
    rates = decayed_rates(LAYERS, heads=1e-3, top=1e-4, factor=1.0)
    assert {rates[layer].rate for layer in LAYERS} == {1e-4}


def test_uniform_rates() -> None:
    assert uniform_rates(LAYERS, heads=1e-3, backbone=2e-5) == {
        **dict.fromkeys(LAYERS, LayerRate("backbone", 2e-5)),
        "heads": LayerRate("heads", 1e-3),
    }


def test_groups_of_a_full_fine_tuning(tiny_folder: Path) -> None:
    net = network(tiny_folder)
    rates = layerwise_rates(net.encoder.layer_names, heads=1e-3, upper=2e-4, lower=5e-5, upper_layers=0.5)
    groups = parameter_groups(net, rates, FreezePlan(dict.fromkeys(net.layer_names, 0)), weight_decay=0.01)
    lower, upper, heads = ("embeddings", "layer.0"), ("layer.1", "layer.2"), ("heads.topic", "heads.mood")
    assert [(each.name, each.layers, each.rate, each.weight_decay) for each in groups] == [
        ("heads", heads, 1e-3, 0.01),
        ("heads/no_decay", heads, 1e-3, 0.0),
        ("upper", upper, 2e-4, 0.01),
        ("upper/no_decay", upper, 2e-4, 0.0),
        ("lower", lower, 5e-5, 0.01),
        ("lower/no_decay", lower, 5e-5, 0.0),
    ]
    assert [len(each.parameters) for each in groups] == [2, 2, 12, 20, 9, 12]
    assert {each.first for each in groups} == {0}


def test_groups_hold_the_tensors_of_the_network_by_their_full_names(tiny_folder: Path) -> None:
    net = network(tiny_folder)
    rates = uniform_rates(net.encoder.layer_names, heads=1e-3, backbone=2e-5)
    groups = parameter_groups(net, rates, FreezePlan(dict.fromkeys(net.layer_names, 0)), weight_decay=0.01)
    found = {name: parameter for group in groups for name, parameter in group.parameters.items()}
    expected = dict(net.named_parameters())
    assert found.keys() == expected.keys()
    assert all(found[name] is parameter for name, parameter in expected.items())


def test_all_of_a_group_thaws_at_the_same_time(tiny_folder: Path) -> None:
    net = network(tiny_folder)
    layers = net.encoder.layer_names
    plan = plan_freezing(
        layers, net.tasks, backbone="gradual", heads=["mood"], gradual=gradual(start=1, every=2, layers=1)
    )
    rates = layerwise_rates(layers, heads=1e-3, upper=2e-4, lower=5e-5, upper_layers=2)
    groups = parameter_groups(net, rates, plan, weight_decay=0.01)
    assert [(each.name, each.layers, each.first) for each in groups] == [
        ("heads", ("heads.topic",), 0),
        ("heads/no_decay", ("heads.topic",), 0),
        ("upper/stage_2", ("layer.2",), 1),
        ("upper/stage_2/no_decay", ("layer.2",), 1),
        ("upper/stage_3", ("layer.1",), 3),
        ("upper/stage_3/no_decay", ("layer.1",), 3),
        ("lower", ("embeddings", "layer.0"), 5),
        ("lower/no_decay", ("embeddings", "layer.0"), 5),
    ]


def test_decay_makes_a_group_of_each_layer_from_the_top_down(tiny_folder: Path) -> None:
    net = network(tiny_folder)
    rates = decayed_rates(net.encoder.layer_names, heads=1e-3, top=1e-4, factor=0.5)
    groups = parameter_groups(net, rates, FreezePlan(dict.fromkeys(net.layer_names, 0)), weight_decay=0.0)
    assert [each.name for each in groups if "/" not in each.name] == [
        "heads",
        "layer.2",
        "layer.1",
        "layer.0",
        "embeddings",
    ]
    assert [each.rate for each in groups[2::2]] == pytest.approx([1e-4, 5e-5, 2.5e-5, 1.25e-5])


def test_no_groups_where_nothing_learns(tiny_folder: Path) -> None:
    net = network(tiny_folder)
    rates = uniform_rates(net.encoder.layer_names, heads=1e-3, backbone=2e-5)
    assert parameter_groups(net, rates, FreezePlan({}), weight_decay=0.01) == []
