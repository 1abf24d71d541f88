"""Freezing: which layers are trained, as a pure function of the optimizer step, so that resuming needs no state.

A freeze scenario is a file in ``conf/freeze``; here are the plans of the kinds in `mtl.config.fields.FreezeKind`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mtl.base.errors import ConfigError, Problem, listed
from mtl.config.fields import FreezeKind, GradualConfig
from mtl.data.batch import Boundary
from mtl.model.layers import adapter_of
from mtl.model.network import MultiTaskNetwork

Unit = Literal["epochs", "steps"]
"""The unit of a schedule: epochs, or optimizer steps of the whole training."""


@dataclass(frozen=True, slots=True)
class FreezePlan:
    """When each layer is trained."""

    # the first epoch or optimizer step (from 0) in which each layer is trained, from the bottom up; others stay frozen
    first: dict[str, int]
    unit: Unit = "steps"  # of ``first``; training itself counts steps, see `by_steps`

    def by_steps(self, steps_per_epoch: int) -> FreezePlan:
        """Return the plan by optimizer steps, of which an epoch has ``steps_per_epoch``."""
        if self.unit == "steps":
            return self
        return FreezePlan({layer: epoch * steps_per_epoch for layer, epoch in self.first.items()})

    def trainable(self, at: int) -> frozenset[str]:
        """Return the layers that are trained in the epoch or step ``at``."""
        return frozenset(layer for layer, first in self.first.items() if first <= at)

    @property
    def unfreezing(self) -> dict[int, list[str]]:
        """The layers that unfreeze in each epoch or step, in order."""
        starts: dict[int, list[str]] = {}
        for layer, first in self.first.items():
            starts.setdefault(first, []).append(layer)
        return dict(sorted(starts.items()))

    def times_unfrozen(self, at: int) -> int:
        """Return how many times layers have unfrozen up to the epoch or step ``at``."""
        return sum(start <= at for start in set(self.first.values()))

    def boundary(self, at: int, encoder_layers: Sequence[str]) -> Boundary | None:
        """Return how many layers of the encoder are frozen below all layers that are trained in ``at``.

        ``embedding`` means that the whole encoder is frozen, None that no layer above the embeddings is.
        """
        trained = self.trainable(at)
        lowest = next((i for i, layer in enumerate(encoder_layers) if {layer, adapter_of(layer)} & trained), None)
        if lowest is None:
            return "embedding"
        return lowest - 1 if lowest > 1 else None

    @property
    def encoder_is_frozen(self) -> bool:
        """Whether neither a layer of the encoder nor an adapter is trained at any time."""
        return all(layer.startswith("heads.") for layer in self.first)


def plan_freezing(
    encoder_layers: Sequence[str],
    tasks: Sequence[str],
    *,
    backbone: FreezeKind,
    heads: Sequence[str] | Literal["all"] = (),
    train_layers: float | None = None,
    adapters: Sequence[str] = (),
    gradual: GradualConfig | None = None,
) -> FreezePlan:
    """Return when each layer is trained.

    Gradual unfreezing follows Howard & Ruder 2018 (ULMFiT, section 3.3).

    Args:
        encoder_layers: Layers of the encoder from the bottom, ``embeddings`` first.
        tasks: All tasks.
        backbone: The frozen layers of the encoder; for ``lora`` all but the adapters.
        heads: Tasks whose heads are frozen.
        train_layers: For ``lower``: the number of top layers to train, or their share (rounded up).
        adapters: For ``lora``: the adapters of the encoder.
        gradual: For ``gradual``: its stages; the embeddings unfreeze with the lowest layer.
    """
    frozen = set(tasks) if heads == "all" else set(heads)
    first: dict[str, int] = {}
    if backbone == "none":
        first = dict.fromkeys(encoder_layers, 0)
    if backbone == "lower":
        first = dict.fromkeys(top_layers(encoder_layers[1:], train_layers or 0), 0)
    if backbone == "lora":
        first = dict.fromkeys(adapters, 0)
    if gradual is not None:
        first = _gradually(encoder_layers, gradual)
        begin = min(first.values())
        if begin and frozen >= set(tasks):
            raise ConfigError(_idle_start(begin, gradual))
    heads_trained = {f"heads.{task}": 0 for task in tasks if task not in frozen}
    return FreezePlan({**first, **heads_trained}, "steps" if gradual is None else gradual.unit)


def count_of(layers: Sequence[str], number: float, key: str) -> int:
    """Return how many of the encoder's layers a number of them, or a share (below 1, rounded up), is.

    ``key`` is the place of the number in the configuration, for the error if there are fewer layers.
    """
    if number > len(layers):
        expected = f"at most the encoder's {len(layers)} layers, or a share of them below 1"
        raise ConfigError(Problem(key, str(number), expected))
    return math.ceil(number * len(layers)) if number < 1 else int(number)


def top_layers(layers: Sequence[str], number: float) -> Sequence[str]:
    """Return the top layers that ``freeze.train_layers`` is the number of; see `count_of`."""
    return layers[len(layers) - count_of(layers, number, "freeze.train_layers") :]


def _gradually(encoder_layers: Sequence[str], gradual: GradualConfig) -> dict[str, int]:
    if gradual.stages is not None:
        return _in_stages(encoder_layers, gradual.stages)
    above = len(encoder_layers) - 2  # layers above the lowest one
    count = math.ceil(gradual.layers * (above + 1)) if gradual.layers < 1 else int(gradual.layers)
    first = {
        layer: gradual.start + gradual.every * ((above - depth) // count)
        for depth, layer in enumerate(encoder_layers[1:])
    }
    return {encoder_layers[0]: max(first.values()), **first}


def _in_stages(encoder_layers: Sequence[str], stages: Mapping[int, int | Literal["all"]]) -> dict[str, int]:
    left = list(encoder_layers[1:])
    first: dict[str, int] = {}
    for at, number in sorted(stages.items()):
        count = len(left) if number == "all" else number
        if not 0 < count <= len(left):
            found = listed(f"{key}: {value}" for key, value in sorted(stages.items()))
            expected = f"together at most the encoder's {len(encoder_layers) - 1} layers, and some in each stage"
            raise ConfigError(Problem("freeze.gradual.stages", found, expected))
        first |= dict.fromkeys(left[len(left) - count :], at)
        left = left[: len(left) - count]
    if not left:
        first[encoder_layers[0]] = max(stages)
    return {layer: first[layer] for layer in encoder_layers if layer in first}


def _idle_start(begin: int, gradual: GradualConfig) -> Problem:
    found = f"{begin}, with all heads frozen: nothing learns before {gradual.unit.removesuffix('s')} {begin + 1}"
    key, repair = (
        ("start", "freeze.gradual.start=0") if gradual.stages is None else ("stages", "a stage that starts at 0")
    )
    return Problem(f"freeze.gradual.{key}", found, "0, or a head that learns", repair)


def apply_freezing(network: MultiTaskNetwork, plan: FreezePlan, at: int) -> None:
    """Set ``requires_grad`` and the mode of every layer: trained layers are in train mode, frozen ones in eval mode.

    Lightning's ``fit`` sets no modes, and a pretrained model is in eval mode: without this, dropout would be off.
    ``at`` is the epoch or step (from 0), in the unit of the plan.
    """
    trainable = plan.trainable(at)
    for layer, named in network.named_by_layer().items():
        for _, parameter in named:
            parameter.requires_grad_(layer in trainable)
            if layer not in trainable:
                parameter.grad = None
    network.eval()
    for layer in network.layer_names:
        for module in network.layer_modules(layer):
            module.train(layer in trainable)
