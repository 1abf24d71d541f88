"""The part of the schema for learning rates: one for each layer of the encoder, for adapters and for heads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from mtl.base import schema
from mtl.base.schema import Rate
from mtl.config.types import Layers


@dataclass(config=schema.STRICT)
class Layerwise:
    """Three rates: heads, the upper layers, the lower layers with the embeddings."""

    kind: Literal["layerwise"]
    heads: Rate
    lora: Rate
    """Of the adapters of ``freeze=lora``."""
    upper: Rate
    lower: Rate
    upper_layers: Layers
    """How many layers are upper ones, as a number or as a share of all."""


@dataclass(config=schema.STRICT)
class Decay:
    """The top layer learns at ``top``, each one below at ``factor`` of the rate above it."""

    kind: Literal["decay"]
    heads: Rate
    lora: Rate
    """Of the adapters of ``freeze=lora``."""
    top: Rate
    factor: Annotated[float, Field(gt=0, le=1)]


@dataclass(config=schema.STRICT)
class Uniform:
    """One rate for the whole backbone."""

    kind: Literal["uniform"]
    heads: Rate
    lora: Rate
    """Of the adapters of ``freeze=lora``."""
    backbone: Rate
