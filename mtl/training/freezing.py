"""Freezing: which layers learn, as a pure function of the epoch, so that a resumed run needs no state for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mtl.errors import ConfigError, Problem
from mtl.model.multitask import MultiTaskNetwork


@dataclass(frozen=True, slots=True)
class FreezePlan:
    """From which epoch on each layer learns.

    Attributes:
        first_epoch: For each layer that ever learns, bottom to top, the epoch (from 0) of its first step; a layer that
            is not named stays frozen.
    """

    first_epoch: dict[str, int]

    def trainable(self, epoch: int) -> frozenset[str]:
        """Return the layers that learn in ``epoch``."""
        return frozenset(layer for layer, first in self.first_epoch.items() if first <= epoch)

    @property
    def stages(self) -> dict[int, list[str]]:
        """The layers that begin to learn, by epoch."""
        stages: dict[int, list[str]] = {}
        for layer, first in self.first_epoch.items():
            stages.setdefault(first, []).append(layer)
        return dict(sorted(stages.items()))

    def boundary(self, epoch: int, encoder_layers: Sequence[str]) -> int | Literal["embedding"] | None:
        """Return how many layers of the encoder are frozen below everything that learns in ``epoch``.

        Args:
            epoch: From 0.
            encoder_layers: Layers of the encoder from the bottom, ``embeddings`` first.

        Returns:
            A number above 0; ``embedding`` where the whole encoder is frozen; nothing where no layer above the
            embeddings is.
        """
        trainable = self.trainable(epoch)
        lowest = next((at for at, layer in enumerate(encoder_layers) if layer in trainable), None)
        if lowest is None:
            return "embedding"
        return lowest - 1 if lowest > 1 else None

    @property
    def encoder_is_frozen(self) -> bool:
        """Whether no layer of the encoder ever learns."""
        return all(layer.startswith("heads.") for layer in self.first_epoch)


def plan_freezing(
    encoder_layers: Sequence[str],
    tasks: Sequence[str],
    *,
    backbone: Literal["none", "all", "lower", "gradual"],
    heads: Sequence[str] | Literal["all"] = (),
    train_layers: float | None = None,
    start: int = 0,
    every: int = 1,
    layers: int = 1,
) -> FreezePlan:
    """Return what learns when.

    Gradual unfreezing after Howard & Ruder 2018 (ULMFiT, section 3.3).

    Args:
        encoder_layers: Layers of the encoder from the bottom, ``embeddings`` first.
        tasks: All tasks.
        backbone: Which layers of the encoder are frozen: none, all, the lower ones, or gradually fewer.
        heads: Tasks whose heads are frozen.
        train_layers: For ``lower``: how many of the top layers learn, a number or a share of all (rounded up).
        start: For ``gradual``: the epoch (from 0) at which the first layers thaw.
        every: For ``gradual``: epochs between two stages.
        layers: For ``gradual``: layers per stage; the embeddings come with the last one.

    Raises:
        ConfigError: ``train_layers`` is more than the encoder has, or nothing learns before epoch ``start``.
    """
    frozen = set(tasks) if heads == "all" else set(heads)
    first = dict.fromkeys(encoder_layers, 0) if backbone == "none" else {}
    if backbone == "lower":
        first = dict.fromkeys(_top(encoder_layers[1:], train_layers or 0), 0)
    if backbone == "gradual":
        if start and frozen >= set(tasks):
            raise ConfigError(_idle_start(start))
        first = _thaw(encoder_layers, start, every, layers)
    return FreezePlan({**first, **{f"heads.{task}": 0 for task in tasks if task not in frozen}})


def _top(layers: Sequence[str], number: float) -> Sequence[str]:
    if number > len(layers):
        expected = f"at most the encoder's {len(layers)} layers, or a share of them below 1"
        raise ConfigError(Problem("freeze.train_layers", str(number), expected))
    count = math.ceil(number * len(layers)) if number < 1 else int(number)
    return layers[len(layers) - count :]


def _thaw(encoder_layers: Sequence[str], start: int, every: int, layers: int) -> dict[str, int]:
    above = len(encoder_layers) - 2  # layers above the lowest one
    first = {layer: start + every * ((above - depth) // layers) for depth, layer in enumerate(encoder_layers[1:])}
    return {encoder_layers[0]: max(first.values()), **first}


def _idle_start(start: int) -> Problem:
    found = f"{start}, with all heads frozen: nothing learns before epoch {start + 1}"
    return Problem("freeze.gradual.start", found, "0, or a head that learns", "freeze.gradual.start=0")


def apply_freezing(network: MultiTaskNetwork, plan: FreezePlan, epoch: int) -> None:
    """Set ``requires_grad`` and the mode of every layer: what learns is in train mode, the rest in eval mode.

    Lightning's ``fit`` sets no modes, and a pretrained model comes in eval mode: without this, dropout would be off.

    Args:
        network: The network to change.
        plan: What learns when.
        epoch: The epoch (from 0) that begins.
    """
    trainable = plan.trainable(epoch)
    network.eval()
    for layer in network.layer_names:
        learns = layer in trainable
        for _, parameter in network.layer_parameters(layer):
            parameter.requires_grad_(learns)
            if not learns:
                parameter.grad = None
        for module in network.layer_modules(layer):
            module.train(learns)
