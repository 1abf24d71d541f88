"""The part of the schema for freezing: which layers are trained, and from when on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from mtl.base import schema
from mtl.base.schema import Count, Number, Share, Width
from mtl.config.types import Layers, Steps, Target


@dataclass(config=schema.STRICT)
class GradualConfig:
    """When layers are unfrozen: at ``start`` the top ``layers``, then ``layers`` more at ``every`` further ``unit``."""

    unit: Literal["epochs", "steps"]
    """What ``start``, ``every`` and ``stages`` count: epochs, or optimizer steps of the whole training."""
    start: Number
    every: Count
    layers: Layers
    """How many more layers are unfrozen at each stage, a number or a share of all."""
    stages: dict[Number, Count | Literal["all"]] | None
    """In place of the three: for the start of each stage how many more layers are unfrozen, from the top down."""
    warmup: Steps
    """Steps over which the rate of layers that have just been unfrozen rises, as a number or as a share of all."""


@dataclass(config=schema.STRICT)
class LoraConfig:
    """Low-rank adapters, see `mtl.model.adapters`."""

    r: Width
    """Rank of the update of a weight matrix."""
    alpha: Annotated[float, Field(gt=0)]
    """Scale: the update is ``alpha / r`` times the product of the two low-rank matrices."""
    dropout: Share
    """Share of an adapter's inputs that is dropped in training."""
    targets: Annotated[list[Target], Field(min_length=1)]
    """The linear layers that get adapters."""


@dataclass(config=schema.STRICT)
class FreezeConfig:
    """What does not learn."""

    backbone: Literal["none", "all", "lower", "gradual", "lora"]
    heads: list[str] | Literal["all"]
    """Tasks whose heads are frozen."""
    train_layers: Layers | None
    """``lower``: how many of the top layers train, a number or a share of all; ``lora``: how many get adapters."""
    gradual: GradualConfig | None
    lora: LoraConfig | None
