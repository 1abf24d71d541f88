"""Learning rates: the rules that give each layer one, and the parameter groups that carry them into the optimizer.

`make_rates` in `mtl.training.build` chooses the rule, by ``conf/learning_rates``; `mtl.training.optimization` has the
schedule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from mtl.model.layers import ADAPTER
from mtl.model.network import MultiTaskNetwork
from mtl.training.freezing import FreezePlan, count_of

COMBINATION = "combination"
"""The name of the group with the parameters of a combination of losses."""

NO_DECAY = "/no_decay"
"""The suffix of the names of groups of biases and norms."""


@dataclass(frozen=True, slots=True)
class LayerRate:
    """The learning rate of a layer, and the name of its group."""

    group: str
    rate: float


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that share a rate and a weight decay."""

    # ``upper``, or ``upper/no_decay`` for biases and norms; if layers with the same rate unfreeze at different times,
    # the name includes the stage: ``upper/stage_2``, ``upper/stage_2/no_decay``
    name: str
    layers: tuple[str, ...]  # the layers that its parameters belong to, from the bottom
    rate: float  # the peak learning rate
    weight_decay: float
    parameters: dict[str, nn.Parameter]  # by full name
    first: int = 0  # the first epoch or step (from 0) in which the group is trained, in the unit of the plan


def layerwise_rates(
    encoder_layers: Sequence[str], *, heads: float, upper: float, lower: float, upper_layers: float
) -> dict[str, LayerRate]:
    """Return three rates: heads, the upper layers, the lower layers with the embeddings.

    The layers are those of the encoder from the bottom, ``embeddings`` first; ``upper_layers`` is the number of upper
    ones, or their share (rounded up).
    """
    boundary = len(encoder_layers) - count_of(encoder_layers[1:], upper_layers, "learning_rates.upper_layers")
    rates = {
        layer: LayerRate("upper", upper) if at >= boundary else LayerRate("lower", lower)
        for at, layer in enumerate(encoder_layers)
    }
    return {**rates, "heads": LayerRate("heads", heads)}


def decayed_rates(encoder_layers: Sequence[str], *, heads: float, top: float, factor: float) -> dict[str, LayerRate]:
    """Return rates that decrease by ``factor`` from each layer to the one below (Howard & Ruder 2018, section 3.2)."""
    rates = {layer: LayerRate(layer, top * factor**depth) for depth, layer in enumerate(reversed(encoder_layers))}
    return {**{layer: rates[layer] for layer in encoder_layers}, "heads": LayerRate("heads", heads)}


def uniform_rates(encoder_layers: Sequence[str], *, heads: float, backbone: float) -> dict[str, LayerRate]:
    """Return one rate for the whole encoder and one for the heads."""
    rates = {layer: LayerRate("backbone", backbone) for layer in encoder_layers}
    return {**rates, "heads": LayerRate("heads", heads)}


def parameter_groups(
    network: MultiTaskNetwork, rates: Mapping[str, LayerRate], plan: FreezePlan, weight_decay: float
) -> list[ParameterGroup]:
    """Return the groups of all parameters that are trained at any time, each parameter in exactly one group.

    They include layers that unfreeze later: an optimizer to which a group is added during a run loses its schedule.
    Biases and norms, which have one dimension, have no weight decay. All of a group unfreezes at the same time.

    ``rates`` holds the rate of each layer of the encoder, of ``heads``, and of ``lora`` if there are adapters.
    """
    members: dict[tuple[str, int, bool], list[tuple[str, str, nn.Parameter]]] = {}
    starts: dict[str, set[int]] = {}
    for layer, first in plan.first.items():
        kind = layer.partition(".")[0]  # heads share a rate, and so do adapters
        group = rates[kind if kind in ("heads", ADAPTER) else layer].group
        starts.setdefault(group, set()).add(first)
        for name, parameter in network.layer_parameters(layer):
            members.setdefault((group, first, parameter.ndim > 1), []).append((layer, name, parameter))
    by_group = {rate.group: rate.rate for rate in rates.values()}
    from_the_top = list(reversed(by_group))
    ordered = sorted(members, key=lambda key: (from_the_top.index(key[0]), key[1], not key[2]))
    return [
        ParameterGroup(
            name=name
            + (f"/stage_{plan.times_unfrozen(first)}" if len(starts[name]) > 1 else "")
            + ("" if decays else NO_DECAY),
            layers=tuple(dict.fromkeys(layer for layer, _, _ in members[name, first, decays])),
            rate=by_group[name],
            weight_decay=weight_decay if decays else 0.0,
            parameters={full: parameter for _, full, parameter in members[name, first, decays]},
            first=first,
        )
        for name, first, decays in ordered
    ]
