"""Learning rates: one per layer, and the parameter groups that carry them into the optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from mtl.errors import ConfigError, Problem
from mtl.model.multitask import MultiTaskNetwork
from mtl.training.freezing import FreezePlan


@dataclass(frozen=True, slots=True)
class LayerRate:
    """The learning rate of a layer, and the name of the group that it is shown under."""

    group: str
    rate: float


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that share a rate and a weight decay.

    Attributes:
        name: Its name in the optimizer: ``upper``, or ``upper/no_decay`` for biases and norms.
        layers: The layers that its parameters belong to, from the bottom.
        rate: The peak learning rate.
        weight_decay: The weight decay.
        parameters: The tensors, by full name.
        first_epoch: The epoch (from 0) of the first step of its lowest and of its highest layer.
    """

    name: str
    layers: tuple[str, ...]
    rate: float
    weight_decay: float
    parameters: dict[str, nn.Parameter]
    first_epoch: tuple[int, int] = (0, 0)


def layerwise_rates(
    encoder_layers: Sequence[str], *, heads: float, upper: float, lower: float, upper_layers: float
) -> dict[str, LayerRate]:
    """Return three rates: heads, the upper layers, the lower layers with the embeddings.

    Args:
        encoder_layers: Layers of the encoder from the bottom, ``embeddings`` first.
        heads: Rate of all heads.
        upper: Rate of the upper layers.
        lower: Rate of the other layers.
        upper_layers: How many layers are upper ones, a number or a share of all (rounded up).

    Raises:
        ConfigError: ``upper_layers`` is more than the encoder has.
    """
    count = len(encoder_layers) - 1
    if upper_layers > count:
        expected = f"at most the encoder's {count} layers, or a share of them below 1"
        raise ConfigError(Problem("learning_rates.upper_layers", str(upper_layers), expected))
    number = math.ceil(upper_layers * count) if upper_layers < 1 else int(upper_layers)
    boundary = len(encoder_layers) - number
    rates = {
        layer: LayerRate("upper", upper) if at >= boundary else LayerRate("lower", lower)
        for at, layer in enumerate(encoder_layers)
    }
    return {**rates, "heads": LayerRate("heads", heads)}


def decayed_rates(encoder_layers: Sequence[str], *, heads: float, top: float, factor: float) -> dict[str, LayerRate]:
    """Return rates that fall by ``factor`` from each layer to the one below (Howard & Ruder 2018, section 3.2)."""
    rates = {layer: LayerRate(layer, top * factor**depth) for depth, layer in enumerate(reversed(encoder_layers))}
    return {**{layer: rates[layer] for layer in encoder_layers}, "heads": LayerRate("heads", heads)}


def uniform_rates(encoder_layers: Sequence[str], *, heads: float, backbone: float) -> dict[str, LayerRate]:
    """Return one rate for the whole encoder and one for the heads."""
    rates = {layer: LayerRate("backbone", backbone) for layer in encoder_layers}
    return {**rates, "heads": LayerRate("heads", heads)}


def parameter_groups(
    network: MultiTaskNetwork, rates: Mapping[str, LayerRate], plan: FreezePlan, weight_decay: float
) -> list[ParameterGroup]:
    """Return the groups of all parameters that ever learn, each parameter in exactly one of them.

    They are complete from the start, also those of layers that thaw later: an optimizer that gets a new group in the
    middle of a run loses its schedule. Biases and norms, which have one dimension, have no weight decay.

    Args:
        network: The network.
        rates: The rate of each layer of the encoder, and of ``heads``.
        plan: What learns when.
        weight_decay: The weight decay of all other parameters.
    """
    members: dict[tuple[str, bool], list[tuple[str, str, nn.Parameter]]] = {}
    for layer in plan.first_epoch:
        group = rates["heads" if layer.startswith("heads.") else layer].group
        for name, parameter in network.layer_parameters(layer):
            members.setdefault((group, parameter.ndim > 1), []).append((layer, name, parameter))
    by_group = {rate.group: rate.rate for rate in rates.values()}
    return [
        _group(name, decays, found, plan, by_group[name], weight_decay)
        for (name, decays), found in sorted(
            members.items(), key=lambda item: (_order(item[0][0], by_group), not item[0][1])
        )
    ]


def _order(group: str, groups: Mapping[str, float]) -> int:
    """Return the place of a group from the top down: heads first."""
    return len(groups) - list(groups).index(group)


def _group(
    name: str,
    decays: bool,
    found: list[tuple[str, str, nn.Parameter]],
    plan: FreezePlan,
    rate: float,
    weight_decay: float,
) -> ParameterGroup:
    layers = tuple(dict.fromkeys(layer for layer, _, _ in found))
    epochs = [plan.first_epoch[layer] for layer in layers]
    return ParameterGroup(
        name=name if decays else f"{name}/no_decay",
        layers=layers,
        rate=rate,
        weight_decay=weight_decay if decays else 0.0,
        parameters={name: parameter for _, name, parameter in found},
        first_epoch=(min(epochs), max(epochs)),
    )
