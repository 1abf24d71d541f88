"""The sections for the network: the encoder's weights, the tasks' heads, and the model that training starts from."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from mtl.base import schema
from mtl.base.schema import MOST, Name, Rate, Share, Width
from mtl.config.types import Pooling


@dataclass(config=schema.STRICT)
class FastRates:
    """Rates at which an encoder learns well in a few hundred steps; the wider it is, the lower they are."""

    upper: Rate
    lower: Rate
    lora: Rate
    """Of the adapters of ``freeze=lora``."""


@dataclass(config=schema.STRICT)
class BackboneConfig:
    """Where the encoder's weights come from: one of path, package, random and name; path goes before the others."""

    name: Name | None
    """Model id on the hub; cached after the first use."""
    path: Name | None
    """Local folder in the hub's layout; wins over everything else."""
    package: Name | None
    """Installed Python package that carries the weights."""
    sha256: Name | None
    """Checksum that ``model.safetensors`` must have."""
    revision: Name | None
    """Branch, tag or commit on the hub."""
    random: bool
    """Small random weights, for tests of the pipeline."""
    max_length: Annotated[int, Field(ge=3, le=MOST)] | None
    """Tokens per sentence, special tokens included; ``null``: what the checkpoint says."""
    pooling: Pooling
    normalize: Literal["auto"] | bool
    prompt_name: Name | None = "auto"
    """The checkpoint's prompt that is put before each sentence; ``auto``: what it says, ``null``: none."""
    fast_rates: FastRates | None = None
    """What ``learning_rates=layerwise_fast`` takes for this encoder; runs of earlier versions have none."""


@dataclass(config=schema.STRICT)
class HeadConfig:
    """One task's head: ``linear``, or ``mlp`` with one hidden layer."""

    kind: Literal["linear", "mlp"]
    dropout: Share
    scale: Annotated[float, Field(gt=0)]
    """Fixed factor of the embedding before the head: embeddings of length 1 need large weights before logits differ."""
    hidden: Width | None = None
    """Units of the hidden layer of ``mlp``; ``null``: the embedding's size."""


@dataclass(config=schema.STRICT)
class FirstStageConfig:
    """Another task whose head decides the coarse class."""

    task: Name
    map: dict[str, Name] = field(default_factory=dict)
    """What coarse classes are called among its labels; those that are not named are called the same."""


@dataclass(config=schema.STRICT)
class MultiStageConfig:
    """One task's head of two stages: the first decides the coarse class, the second the label within it."""

    kind: Literal["multi_stage"]
    dropout: Share
    scale: Annotated[float, Field(gt=0)]
    """Fixed factor of the embedding before each stage, see `HeadConfig`."""
    tree: dict[str, list[Name]] | None = None
    """For each coarse class its labels; each label of the task stands in one of them."""
    separator: Name | None = None
    """In place of ``tree``: what stands behind the coarse class in a label, ``:`` in ``negative: late flight``."""
    stage_kind: Literal["linear", "mlp"] = "linear"
    """What each stage is."""
    hidden: Width | None = None
    """Units of the hidden layer of a stage of kind ``mlp``; ``null``: the embedding's size."""
    first_stage: FirstStageConfig | None = None
    """Another task whose head is the first stage; ``null``: one of its own."""


@dataclass(config=schema.STRICT)
class HeadsConfig:
    """Heads: the default, and what single tasks have instead; see `mtl.config.short_forms` for the short form."""

    default: HeadConfig
    tasks: dict[str, Annotated[HeadConfig | MultiStageConfig, Field(discriminator="kind")]]

    def of(self, task: str) -> HeadConfig | MultiStageConfig:
        """Return the head of ``task``."""
        return self.tasks.get(task, self.default)


@dataclass(config=schema.STRICT)
class ModelConfig:
    """Where training starts."""

    init_from: Name | None
    """A run folder or a saved model whose encoder and heads are the start."""
