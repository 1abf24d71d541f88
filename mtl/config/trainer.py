"""The sections for how training runs: optimizer, Lightning's trainer, callbacks and loggers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from mtl.base import schema
from mtl.base.schema import MOST, Count, Share
from mtl.config.types import Batches, BatchesOrNone, Devices, Duration, Steps


@dataclass(config=schema.STRICT)
class OptimizerConfig:
    """AdamW and its schedule."""

    kind: Literal["adamw"]
    weight_decay: Annotated[float, Field(ge=0)]
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)]
    eps: Annotated[float, Field(ge=1e-15, le=1)]
    """Added to Adam's denominator: in float32 a much smaller number is lost, and steps are divided by 0."""
    schedule: Literal["linear", "cosine", "constant"]
    warmup: Steps
    """Steps of linear warm-up, as a number or as a share of all."""


@dataclass(config=schema.STRICT)
class TrainerConfig:
    """Lightning's trainer flags under their own names; ``null`` leaves Lightning's default."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: Devices = 1
    num_nodes: Count | None = None
    strategy: str | None = None
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed", "32", 32] = "auto"
    """``auto``: bf16 where the hardware computes it natively, otherwise fp32."""
    max_epochs: Count | None = None
    min_epochs: Count | None = None
    max_steps: Count | None = None
    min_steps: Count | None = None
    max_time: Duration | None = None
    limit_train_batches: Batches | None = None
    limit_val_batches: BatchesOrNone | None = None
    fast_dev_run: bool | Count | None = None
    val_check_interval: Batches | None = None
    check_val_every_n_epoch: Count | None = None
    num_sanity_val_steps: Annotated[int, Field(ge=-1, le=MOST)] | None = None
    accumulate_grad_batches: Count | None = None
    gradient_clip_val: Annotated[float, Field(ge=0)] | None = None
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    log_every_n_steps: Count | None = None
    deterministic: bool | Literal["warn"] | None = None
    benchmark: bool | None = None
    detect_anomaly: bool | None = None
    profiler: Literal["simple", "advanced", "pytorch"] | None = None
    sync_batchnorm: bool | None = None


@dataclass(config=schema.STRICT)
class EarlyStoppingConfig:
    """Stop when the monitored figure has not risen by ``min_delta`` for ``patience`` validations."""

    patience: Count
    min_delta: Annotated[float, Field(ge=0)]


@dataclass(config=schema.STRICT)
class AverageConfig:
    """Validate and save a running average of the weights, see `mtl.training.averaging`."""

    decay: Share
    """What the average keeps of itself in a step: it reaches over about ``1 / (1 - decay)`` steps."""


@dataclass(config=schema.STRICT)
class GradientsConfig:
    """How often the tasks' gradients are looked at."""

    every_n_steps: Count


@dataclass(config=schema.STRICT)
class BadStepsConfig:
    """What to do about a step whose loss or gradient is NaN or infinite; its rows are written down either way."""

    action: Literal["stop", "skip"]
    """``skip``: leave the weights as they are and go on with the next step."""
    most_in_a_row: Count
    """With so many skipped without a good one between, training stops after all."""


@dataclass(config=schema.STRICT)
class CallbacksConfig:
    """What runs beside training."""

    monitor: str
    """Logged figure, larger is better, that picks the best checkpoint and stops early."""
    early_stopping: EarlyStoppingConfig | None
    average: AverageConfig | None
    gradients: GradientsConfig | None
    """Measure whether the tasks pull the encoder in the same direction."""
    save_last: bool
    """Write `checkpoints/last.ckpt` after every epoch and the last step, and in between as below, to resume from."""
    save_every_minutes: Annotated[float, Field(gt=0, lt=MOST)] | None
    """Minutes between two such checkpoints; ``null``: by the clock none."""
    save_every_steps: Count | None
    """Optimizer steps between two such checkpoints; ``null``: by steps none."""
    keep_best: bool
    """Evaluate and save the best checkpoint rather than the last state."""
    bad_steps: BadStepsConfig
    progress: bool


@dataclass(config=schema.STRICT)
class LoggerConfig:
    """Which loggers a run has, and its name in those that collect runs; see `mtl.training.trackers`."""

    kinds: list[Literal["csv", "tensorboard", "wandb", "mlflow", "trackio"]]
    project: str | None = None
    """Project or experiment; ``null``: that of the environment, otherwise ``mtl``."""
    name: str | None = None
    """Name of the run; ``null``: the last two parts of its folder."""
    group: str | None = None
    """What several runs have in common; ``null``: the folder of a sweep, nothing for a single run."""
    files: bool | None = None
    """Whether trackers get the report, its page and figures, which quote sentences of the data; ``null``: yes."""
