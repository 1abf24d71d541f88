"""Build what is trained, when and at which rate: adapters, freeze plan, rates, parameter groups, schedule."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mtl.base.errors import ConfigError, Problem
from mtl.config.fields import Config
from mtl.config.freezing import Decay, Layerwise
from mtl.model.adapters import add_adapters
from mtl.model.layers import ADAPTER
from mtl.model.network import MultiTaskNetwork
from mtl.training.freezing import FreezePlan, plan_freezing, top_layers
from mtl.training.learning_rates import (
    LayerRate,
    ParameterGroup,
    decayed_rates,
    layerwise_rates,
    parameter_groups,
    uniform_rates,
)
from mtl.training.optimization import build_schedule


def adapters(config: Config, network: MultiTaskNetwork) -> None:
    """Give the encoder the adapters of ``freeze=lora``, in place.

    Raises:
        ConfigError: ``freeze.train_layers`` is more than the encoder has, or ``freeze.lora.r`` than its hidden size.
        ModelError: The encoder's family has other linear layers than those that are to get adapters.
    """
    freeze = config.freeze
    if freeze.lora is None:
        return
    layers = network.encoder.layer_names[1:]
    chosen = layers if freeze.train_layers is None else top_layers(layers, freeze.train_layers)
    lora, most = freeze.lora, network.encoder.hidden_size
    if lora.r > most:
        expected = f"at most {most}, the encoder's hidden size: no update of its weights has a higher rank"
        raise ConfigError(Problem("freeze.lora.r", str(lora.r), expected, "give freeze.lora.r=8"))
    add_adapters(
        network.encoder.backbone, chosen, r=lora.r, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets
    )


def freeze_plan(config: Config, network: MultiTaskNetwork, kept: Collection[str] = ()) -> FreezePlan:
    """Return what learns when, in the unit of the configuration.

    Args:
        config: The run's configuration.
        network: Encoder and heads.
        kept: Tasks without data, whose heads are frozen.

    Raises:
        ConfigError: There are fewer layers than the configuration names, or at first nothing learns.
    """
    freeze, encoder = config.freeze, network.encoder
    plan = partial(
        plan_freezing,
        encoder.layer_names,
        network.tasks,
        backbone=freeze.backbone,
        heads="all" if freeze.heads == "all" else [*freeze.heads, *kept],
        train_layers=freeze.train_layers,
        adapters=encoder.adapter_names,
    )
    if (gradual := freeze.gradual) is None:
        return plan()
    return plan(
        unit=gradual.unit, start=gradual.start, every=gradual.every, layers=gradual.layers, stages=gradual.stages
    )


def rates(config: Config, network: MultiTaskNetwork) -> dict[str, LayerRate]:
    """Return the learning rate of each layer of the encoder, of the adapters, and of the heads."""
    layers = network.encoder.layer_names
    chosen = config.learning_rates
    if isinstance(chosen, Layerwise):
        found = layerwise_rates(
            layers, heads=chosen.heads, upper=chosen.upper, lower=chosen.lower, upper_layers=chosen.upper_layers
        )
    elif isinstance(chosen, Decay):
        found = decayed_rates(layers, heads=chosen.heads, top=chosen.top, factor=chosen.factor)
    else:
        found = uniform_rates(layers, heads=chosen.heads, backbone=chosen.backbone)
    heads = found.pop("heads")
    return {**found, ADAPTER: LayerRate(ADAPTER, chosen.lora), "heads": heads}


def groups(config: Config, network: MultiTaskNetwork, plan: FreezePlan) -> list[ParameterGroup]:
    """Return the parameter groups."""
    return parameter_groups(network, rates(config, network), plan, config.optimizer.weight_decay)


def schedule(
    config: Config, plan: FreezePlan, parameter_groups: Sequence[ParameterGroup], total_steps: int
) -> Callable[[Optimizer], LambdaLR]:
    """Return what makes the schedule of the rates.

    Args:
        config: The run's configuration.
        plan: What learns when, by optimizer steps.
        parameter_groups: All parameters that ever learn.
        total_steps: Optimizer steps of the whole training.
    """
    settings, gradual = config.optimizer, config.freeze.gradual
    return partial(
        build_schedule,
        schedule=settings.schedule,
        total_steps=total_steps,
        warmup=settings.warmup,
        starts=[plan.first.get(group.layers[0], 0) for group in parameter_groups],
        stage_warmup=0 if gradual is None else gradual.warmup,
    )
