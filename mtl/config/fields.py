"""The schema of a training configuration: `Config`, whose sections are imported from here as well.

The largest sections have modules of their own: `mtl.config.data`, `mtl.config.model`, `mtl.config.freezing`,
`mtl.config.learning_rates`, `mtl.config.loss`, `mtl.config.trainer`. Checks across values are in `mtl.config.checks`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from mtl.base import schema
from mtl.base.schema import Count, Name, Number
from mtl.config.data import DataConfig, RetentionConfig, TaskConfig
from mtl.config.freezing import FreezeConfig
from mtl.config.learning_rates import Decay, Layerwise, Uniform
from mtl.config.loss import LossConfig, TaskLossConfig
from mtl.config.model import (
    BackboneConfig,
    FirstStageConfig,
    HeadConfig,
    HeadsConfig,
    ModelConfig,
    MultiStageConfig,
)
from mtl.config.trainer import CallbacksConfig, LoggerConfig, OptimizerConfig, TrainerConfig

__all__ = [
    "BackboneConfig",
    "Config",
    "DataConfig",
    "FirstStageConfig",
    "HeadConfig",
    "MultiStageConfig",
    "RetentionConfig",
    "TaskConfig",
    "TaskLossConfig",
    "TrainerConfig",
]


@dataclass(config=schema.STRICT)
class CalibrationConfig:
    """What is fitted on the validation rows once training is done, per task."""

    temperature: bool
    """Scale the logits so that probabilities say how often the model is right; changes no predicted label."""
    prior: Literal["none", "tuned"]
    """``tuned``: take the training rows' class frequencies out of the logits as far as macro-F1 gains by it."""
    bins: Annotated[int, Field(ge=2, le=100)]
    """Bins of the calibration error and of the reliability diagram."""


@dataclass(config=schema.STRICT)
class CacheConfig:
    """What is kept from run to run, in the folder of the environment variable ``MTL_CACHE_DIR`` (``~/.cache/mtl``)."""

    activations: bool
    """Keep what frozen layers give for a sentence, so that it is computed once."""


@dataclass(config=schema.STRICT)
class EvaluationConfig:
    """What a report has beside the figures."""

    error_analysis: bool
    """Slices, and the surest mistakes with the nearest training rows."""
    most_mistakes: Count
    """Mistakes of a task that are listed, the surest first."""
    nearest_rows: Number
    """Training rows of a task among which the nearest are looked for, a sample of more; 0: none."""
    figures: bool
    """The page ``report.html``, and pictures in the folder ``figures``."""
    test: bool = True
    """Evaluate the test rows; the trials of `mtl.tuning` leave them alone, as runs of earlier versions never did."""


@dataclass(config=schema.STRICT)
class StudyConfig:
    """A sweep whose jobs belong together, see `mtl.training.study`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")] | None
    """What its folder is called; ``null``: the sweep is no study."""
    epochs: Count
    """Epochs of the files in ``conf/scenario`` in which the encoder learns."""


@dataclass(config=schema.STRICT)
class Config:
    """A whole training run."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    task: Name | None
    """The one task to train, on its own; ``null``: all of ``data.tasks``. See `mtl.config.short_forms`."""
    backbone: BackboneConfig
    data: DataConfig
    heads: HeadsConfig
    model: ModelConfig
    freeze: FreezeConfig
    learning_rates: Annotated[Layerwise | Decay | Uniform, Field(discriminator="kind")]
    loss: LossConfig
    optimizer: OptimizerConfig
    trainer: TrainerConfig
    callbacks: CallbacksConfig
    calibration: CalibrationConfig
    logger: LoggerConfig
    cache: CacheConfig
    retention: RetentionConfig
    evaluation: EvaluationConfig
    study: StudyConfig
