"""Parameter groups of any scenario hold each parameter that learns exactly once, at the rate of its layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import AdamW

from mtl.data.order import OptimizerSteps
from mtl.training.freezing import FreezePlan, apply_freezing, plan_freezing
from mtl.training.learning_rates import (
    LayerRate,
    ParameterGroup,
    decayed_rates,
    layerwise_rates,
    parameter_groups,
    uniform_rates,
)
from mtl.training.optimization import build_adamw, build_schedule, rate_factor
from tests.support.configs import gradual
from tests.support.networks import TASKS, network

if TYPE_CHECKING:
    from pathlib import Path

    from mtl.model.network import MultiTaskNetwork

LAYERS = ["embeddings", "layer.0", "layer.1", "layer.2"]
NEVER = 100
"""An epoch after all stages that are drawn."""

rate = st.floats(1e-6, 1.0)
amount = st.one_of(st.integers(1, 3), st.floats(0.01, 0.99))
"""A number of the three layers, or a share of them."""


@st.composite
def scenarios(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the arguments of `plan_freezing`."""
    backbone = draw(st.sampled_from(["none", "all", "lower", "gradual"]))
    heads = draw(st.one_of(st.just("all"), st.lists(st.sampled_from(list(TASKS)), unique=True)))
    chosen: dict[str, Any] = {"backbone": backbone, "heads": heads}
    if backbone == "lower":
        chosen["train_layers"] = draw(amount)
    if backbone == "gradual":
        idle = heads == "all" or len(heads) == len(TASKS)
        start = 0 if idle else draw(st.integers(0, 4))
        chosen["gradual"] = gradual(start=start, every=draw(st.integers(1, 4)), layers=draw(st.integers(1, 5)))
    return chosen


@st.composite
def rate_settings(draw: st.DrawFn) -> dict[str, LayerRate]:
    heads = draw(rate)
    kind = draw(st.sampled_from(["layerwise", "decay", "uniform"]))
    if kind == "layerwise":
        return layerwise_rates(LAYERS, heads=heads, upper=draw(rate), lower=draw(rate), upper_layers=draw(amount))
    if kind == "decay":
        return decayed_rates(LAYERS, heads=heads, top=draw(rate), factor=draw(st.floats(0.1, 1.0)))
    return uniform_rates(LAYERS, heads=heads, backbone=draw(rate))


@pytest.fixture(scope="module")
def net(tiny_folder: Path) -> MultiTaskNetwork:
    return network(tiny_folder, kind="mlp")


def layer_of(network: MultiTaskNetwork) -> dict[str, str]:
    """Return the layer of each parameter."""
    return {name: layer for layer in network.layer_names for name, _ in network.layer_parameters(layer)}


def named(groups: list[ParameterGroup]) -> list[str]:
    return [name for group in groups for name in group.parameters]


@given(scenario=scenarios(), rates=rate_settings(), decay=st.floats(0.0, 1.0))
@settings(deadline=None)
def test_each_parameter_that_ever_learns_is_in_exactly_one_group(
    net: MultiTaskNetwork, scenario: dict[str, Any], rates: dict[str, LayerRate], decay: float
) -> None:
    plan = plan_freezing(LAYERS, net.tasks, **scenario)
    groups = parameter_groups(net, rates, plan, decay)
    apply_freezing(net, plan, NEVER)
    learning = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert len(named(groups)) == len(set(named(groups)))
    assert set(named(groups)) == learning
    assert len({group.name for group in groups}) == len(groups)
    assert all(group.parameters for group in groups)


@given(scenario=scenarios(), epoch=st.integers(0, 20))
@settings(deadline=None)
def test_what_learns_only_grows_and_is_never_outside_the_groups(
    net: MultiTaskNetwork, scenario: dict[str, Any], epoch: int
) -> None:
    plan = plan_freezing(LAYERS, net.tasks, **scenario)
    groups = parameter_groups(net, uniform_rates(LAYERS, heads=0.1, backbone=0.1), plan, 0.0)
    learning = []
    for each in (epoch, epoch + 1):
        apply_freezing(net, plan, each)
        learning.append({name for name, parameter in net.named_parameters() if parameter.requires_grad})
    assert learning[0] <= learning[1] <= set(named(groups))
    if groups:
        assert learning[0]


@given(scenario=scenarios(), rates=rate_settings(), decay=st.floats(0.001, 1.0))
@settings(deadline=None)
def test_biases_and_norms_have_no_decay_and_all_others_have(
    net: MultiTaskNetwork, scenario: dict[str, Any], rates: dict[str, LayerRate], decay: float
) -> None:
    for group in parameter_groups(net, rates, plan_freezing(LAYERS, net.tasks, **scenario), decay):
        expected = {name: 0.0 if name.endswith("bias") or "LayerNorm" in name else decay for name in group.parameters}
        assert expected == dict.fromkeys(group.parameters, group.weight_decay)


@given(scenario=scenarios(), rates=rate_settings())
@settings(deadline=None)
def test_each_parameter_learns_at_the_rate_of_its_layer(
    net: MultiTaskNetwork, scenario: dict[str, Any], rates: dict[str, LayerRate]
) -> None:
    layers = layer_of(net)
    groups = parameter_groups(net, rates, plan_freezing(LAYERS, net.tasks, **scenario), 0.01)
    for group in groups:
        for name in group.parameters:
            layer = layers[name]
            assert group.rate == rates["heads" if layer.startswith("heads.") else layer].rate
            assert layer in group.layers
    if groups:
        optimizer = build_adamw(groups, betas=(0.9, 0.999), eps=1e-8)
        assert [each["lr"] for each in optimizer.param_groups] == [group.rate for group in groups]


@given(scenario=scenarios())
@settings(deadline=None)
def test_a_group_knows_when_all_of_its_layers_begin(net: MultiTaskNetwork, scenario: dict[str, Any]) -> None:
    plan = plan_freezing(LAYERS, net.tasks, **scenario)
    rates = uniform_rates(LAYERS, heads=0.1, backbone=0.1)
    for group in parameter_groups(net, rates, plan, 0.0):
        assert {first_epoch(plan, layer) for layer in group.layers} == {group.first}


def first_epoch(plan: FreezePlan, layer: str) -> int:
    return next(epoch for epoch in range(NEVER) if layer in plan.trainable(epoch))


@given(count=st.integers(1, 48), upper_layers=st.one_of(st.integers(1, 48), st.floats(0.001, 0.999)))
def test_the_upper_layers_are_the_top_ones(count: int, upper_layers: float) -> None:
    """For a share: the least number of layers that is not below it."""
    layers = ["embeddings", *(f"layer.{index}" for index in range(count))]
    number = min(upper_layers, count) if isinstance(upper_layers, int) else upper_layers
    rates = layerwise_rates(layers, heads=0.1, upper=0.2, lower=0.3, upper_layers=number)
    upper = [layer for layer in layers if rates[layer].group == "upper"]
    expected = number if isinstance(number, int) else math.ceil(number * count)
    assert upper == layers[len(layers) - expected :]
    assert {rates[layer].rate for layer in upper} == {0.2}
    assert {rates[layer].rate for layer in layers if layer not in upper} == {0.3}


@given(count=st.integers(1, 48), top=rate, factor=st.floats(0.1, 1.0))
def test_decayed_rates_fall_by_the_factor_from_layer_to_layer(count: int, top: float, factor: float) -> None:
    layers = ["embeddings", *(f"layer.{index}" for index in range(count))]
    rates = [decayed_rates(layers, heads=0.1, top=top, factor=factor)[layer].rate for layer in layers]
    assert rates[-1] == top
    assert rates[:-1] == pytest.approx([above * factor for above in rates[1:]], rel=1e-9)


@given(scenario=scenarios())
def test_stages_cover_each_layer_once_in_order(scenario: dict[str, Any]) -> None:
    plan = plan_freezing(LAYERS, tuple(TASKS), **scenario)
    stages = plan.unfreezing
    assert list(stages) == sorted(stages)
    assert sorted(layer for layers in stages.values() for layer in layers) == sorted(plan.first)
    encoder = [plan.first[layer] for layer in LAYERS if layer in plan.first]
    assert encoder == sorted(encoder, reverse=True)  # a layer never thaws before one above it


@st.composite
def schedules(draw: st.DrawFn) -> dict[int, Any]:
    """Draw stages for four layers above the embeddings: some of them, or all."""
    counts: list[Any] = draw(st.lists(st.integers(1, 2), min_size=1, max_size=2))
    if draw(st.booleans()) and sum(counts) < 4:
        counts.append("all")
    starts = draw(st.lists(st.integers(0, 30), min_size=len(counts), max_size=len(counts), unique=True))
    return dict(draw(st.permutations(list(zip(sorted(starts), counts, strict=True)))))


@given(stages=schedules(), steps=st.integers(1, 9), at=st.integers(0, 400))
def test_a_schedule_gives_each_stage_its_layers_from_the_top_at_its_step(
    stages: dict[int, Any], steps: int, at: int
) -> None:
    layers = ["embeddings", *(f"layer.{number}" for number in range(4))]
    plan = plan_freezing(layers, ["mood"], backbone="gradual", gradual=gradual(unit="epochs", stages=stages))
    thawed = {start for start in stages if start <= at // steps}
    count = min(4, sum(4 if stages[start] == "all" else stages[start] for start in thawed))
    expected = {"heads.mood", *layers[5 - count :]} | ({"embeddings"} if count == 4 else set())
    assert plan.trainable(at // steps) == expected
    by_steps = plan.by_steps(steps)
    assert by_steps.trainable(at) == expected  # a function of the step alone
    assert by_steps.by_steps(7) == by_steps
    assert by_steps.boundary(at, layers) == ("embedding" if count == 0 else 4 - count or None)
    assert by_steps.times_unfrozen(at) == len({first for first in by_steps.first.values() if first <= at})


@given(batches=st.integers(1, 40), accumulate=st.integers(1, 9), epochs=st.integers(1, 4))
def test_optimizer_steps_are_those_of_a_loop_that_counts(batches: int, accumulate: int, epochs: int) -> None:
    steps, done = OptimizerSteps(batches, accumulate), 0
    for epoch in range(epochs):
        for batch in range(batches):
            assert steps.of(epoch, batch) == done
            if (batch + 1) % accumulate == 0 or batch + 1 == batches:
                done += 1
    assert done == epochs * steps.per_epoch


@given(
    start=st.integers(0, 50),
    rising=st.integers(1, 20),
    total=st.integers(1, 80),
    schedule=st.sampled_from(["linear", "cosine", "constant"]),
)
def test_a_warm_up_of_a_stage_multiplies_the_schedule_of_the_whole(
    start: int, rising: int, total: int, schedule: Any
) -> None:
    whole, parameters = rate_factor(schedule, total, 0.1), [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = AdamW([{"params": [each], "lr": 0.5} for each in parameters])
    built = build_schedule(optimizer, schedule, total, 0.1, [0, start], rising)
    own = [factor(start + at) for factor in (built.lr_lambdas[1],) for at in range(rising + 1)]
    if start:
        expected = [whole(start + at) * (at + 1) / rising for at in range(rising)]
        assert own == pytest.approx([*expected, whole(start + rising)])
    else:
        assert own == pytest.approx([whole(at) for at in range(rising + 1)])
    assert [built.lr_lambdas[0](step) for step in range(total)] == [whole(step) for step in range(total)]
