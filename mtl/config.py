"""The schema of a training configuration, and `load`: every check that needs neither torch nor a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from mtl import schema
from mtl.errors import ConfigError, Problem, did_you_mean, listed

T = TypeVar("T")
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value)]
"""A text that may look like a number: a label ``0``, a file ``2024``."""


@dataclass(config=schema.STRICT)
class BackboneConfig:
    """Where the encoder's weights come from; the first that is given counts: path, package, random, name."""

    name: str | None
    """Model id on the hub; cached after the first use."""
    path: str | None
    """Local folder in the hub's layout; wins over everything else."""
    package: str | None
    """Installed Python package that carries the weights."""
    sha256: str | None
    """Checksum that ``model.safetensors`` must have."""
    revision: str | None
    """Branch, tag or commit on the hub."""
    random: bool
    """Small random weights, for tests of the pipeline."""
    max_length: Annotated[int, Field(ge=3)] | None
    """Tokens per sentence, special tokens included; ``null``: what the checkpoint says."""
    pooling: Literal["auto", "mean", "cls"]
    normalize: Literal["auto"] | bool


@dataclass(config=schema.STRICT)
class TaskConfig:
    """The files and columns of one task."""

    train: Name | None = None
    val: Name | None = None
    test: Name | None = None
    path: Name | None = None
    """One file that is split by `DataConfig.split`, instead of ``train``."""
    text_column: Name = "text"
    label_column: Name = "label"
    labels: list[Name] | None = None
    """The labels in the order of the head's outputs; ``null``: those found in training, sorted."""


@dataclass(config=schema.STRICT)
class DataConfig:
    """The tasks, and how their rows become batches."""

    tasks: dict[str, TaskConfig]
    split: list[Fraction]
    """Shares of train, val and test when a file has to be split."""
    interleave: Literal["paired", "round_robin", "proportional", "temperature"]
    temperature: Annotated[float, Field(gt=0)]
    """``T`` of temperature sampling: a task's share is proportional to ``rows ** (1 / T)``."""
    batch_size: Count
    """Rows per task, step and process."""
    eval_batch_size: Count
    max_tokens: Annotated[int, Field(ge=16)]
    """Most padded tokens of one task's batch."""


@dataclass(config=schema.STRICT)
class HeadConfig:
    """One task's head: ``linear``, or ``mlp`` with one hidden layer."""

    kind: Literal["linear", "mlp"]
    dropout: Share
    hidden: Count | None = None
    """Units of the hidden layer of ``mlp``; ``null``: the embedding's size."""


@dataclass(config=schema.STRICT)
class HeadsConfig:
    """Heads: the default, and what single tasks have instead."""

    default: HeadConfig
    tasks: dict[str, HeadConfig]


@dataclass(config=schema.STRICT)
class GradualConfig:
    """When the layers thaw: at epoch ``start`` the top ``layers``, then ``layers`` more every ``every`` epochs."""

    start: Annotated[int, Field(ge=0)]
    every: Count
    layers: Count


@dataclass(config=schema.STRICT)
class FreezeConfig:
    """What does not learn."""

    backbone: Literal["none", "all", "lower", "gradual"]
    heads: list[str] | Literal["all"]
    """Tasks whose heads are frozen."""
    train_layers: Annotated[int, Field(ge=1)] | Fraction | None
    """``lower``: how many of the top layers train, as a number or as a share of all."""
    gradual: GradualConfig | None


@dataclass(config=schema.STRICT)
class Layerwise:
    """Three rates: heads, the upper layers, the lower layers with the embeddings."""

    kind: Literal["layerwise"]
    heads: Rate
    upper: Rate
    lower: Rate
    upper_layers: Count | Fraction
    """How many layers are upper ones, as a number or as a share of all."""


@dataclass(config=schema.STRICT)
class Decay:
    """The top layer learns at ``top``, each one below at ``factor`` of the rate above it."""

    kind: Literal["decay"]
    heads: Rate
    top: Rate
    factor: Annotated[float, Field(gt=0, le=1)]


@dataclass(config=schema.STRICT)
class Uniform:
    """One rate for the whole backbone."""

    kind: Literal["uniform"]
    heads: Rate
    backbone: Rate


@dataclass(config=schema.STRICT)
class LossConfig:
    """How the tasks' losses become one."""

    combine: Literal["sum"]
    weights: dict[str, Annotated[float, Field(gt=0)]]
    """Factors of the tasks' losses in the sum; 1 for a task that is not named."""
    label_smoothing: Share


@dataclass(config=schema.STRICT)
class OptimizerConfig:
    """AdamW and its schedule."""

    kind: Literal["adamw"]
    weight_decay: Annotated[float, Field(ge=0)]
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)]
    eps: Annotated[float, Field(gt=0)]
    schedule: Literal["linear", "cosine", "constant"]
    warmup: Annotated[int, Field(ge=0)] | Share
    """Steps of linear warm-up, as a number or as a share of all."""


@dataclass(config=schema.STRICT)
class TrainerConfig:
    """Lightning's trainer flags under their own names; ``null`` leaves Lightning's default."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto"
    devices: int | str | list[int] = "auto"
    num_nodes: Count | None = None
    strategy: str | None = None
    precision: Literal["auto", "32-true", "bf16-mixed", "bf16-true", "16-mixed", "64-true", "32", 32] = "auto"
    """``auto``: bf16 where the hardware computes it natively, otherwise fp32."""
    max_epochs: Count | None = None
    min_epochs: Count | None = None
    max_steps: Count | None = None
    min_steps: Count | None = None
    max_time: str | dict[str, int] | None = None
    limit_train_batches: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, le=1)] | None = None
    limit_val_batches: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, le=1)] | None = None

    overfit_batches: Annotated[int, Field(ge=0)] | Share | None = None
    fast_dev_run: bool | Count | None = None
    val_check_interval: Count | Annotated[float, Field(gt=0, le=1)] | None = None
    check_val_every_n_epoch: Count | None = None
    num_sanity_val_steps: Annotated[int, Field(ge=-1)] | None = None
    accumulate_grad_batches: Count | None = None
    gradient_clip_val: Annotated[float, Field(ge=0)] | None = None
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    log_every_n_steps: Count | None = None
    deterministic: bool | Literal["warn"] | None = None
    benchmark: bool | None = None
    detect_anomaly: bool | None = None
    profiler: Literal["simple", "advanced", "pytorch"] | None = None
    sync_batchnorm: bool | None = None
    barebones: bool | None = None


@dataclass(config=schema.STRICT)
class EarlyStoppingConfig:
    """Stop when the monitored figure has not risen by ``min_delta`` for ``patience`` validations."""

    patience: Count
    min_delta: Annotated[float, Field(ge=0)]


@dataclass(config=schema.STRICT)
class CallbacksConfig:
    """What runs beside training."""

    monitor: str
    """Logged figure, larger is better, that picks the best checkpoint and stops early."""
    early_stopping: EarlyStoppingConfig | None
    save_last: bool
    """Write `checkpoints/last.ckpt` after every epoch, to resume from."""
    keep_best: bool
    """Evaluate and save the best checkpoint rather than the last state."""
    progress: bool


@dataclass(config=schema.STRICT)
class LoggerConfig:
    """Which loggers write into the run folder."""

    kinds: list[Literal["csv", "tensorboard"]]


@dataclass(config=schema.STRICT)
class ModelConfig:
    """Where training starts."""

    init_from: str | None
    """A run folder or a saved model whose encoder and heads are the start."""


@dataclass(config=schema.STRICT)
class Config:
    """A whole training run."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
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
    logger: LoggerConfig


def load(cfg: DictConfig | Mapping[str, Any]) -> Config:
    """Check a composed configuration and return it typed.

    Args:
        cfg: What Hydra composed, or the same as plain mappings.

    Returns:
        The configuration.

    Raises:
        ConfigError: All problems together, each with its full key.
    """
    values = _plain(cfg)
    config, problems = schema.check(Config, values)
    problems += _cross_checks(values)
    if problems or config is None:
        raise ConfigError(problems)
    return config


def _plain(cfg: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(cfg, DictConfig):
        return dict(cfg)
    try:
        return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        message = str(error).splitlines()[0]
        place = getattr(error, "full_key", None) or "configuration"
        raise ConfigError(Problem(place, message, "a value that can be resolved", f"give {place}=…")) from None


def _cross_checks(values: Mapping[str, Any]) -> list[Problem]:
    """Check what no single field can say, in every section that holds by itself."""
    data = _section(DataConfig, values, "data")
    freeze = _section(FreezeConfig, values, "freeze")
    heads = _section(HeadsConfig, values, "heads")
    loss = _section(LossConfig, values, "loss")
    backbone = _section(BackboneConfig, values, "backbone")
    problems = _data(data) if data else []
    if data:
        problems += _names_of_tasks(list(data.tasks), freeze, heads, loss)
    problems += _freeze(freeze) if freeze else []
    return problems + (_backbone(backbone) if backbone else [])


def _section(kind: type[T], values: Mapping[str, Any], name: str) -> T | None:
    return schema.check(kind, values.get(name, {}))[0]


def _data(data: DataConfig) -> list[Problem]:
    problems = []
    if not data.tasks:
        repair = "data.tasks.classification.train=a.csv data.tasks.sentiment.path=b.jsonl"
        problems.append(Problem("data.tasks", "no task", "at least one task with its file", f"give {repair}"))
    if len(data.split) != 3 or abs(sum(data.split) - 1) > 1e-6:
        problems.append(Problem("data.split", str(data.split), "three shares (train, val, test) that sum to 1"))
    for name, task in data.tasks.items():
        place = f"data.tasks.{name}"
        if not name.isidentifier() or name == "all":
            allowed = "letters, digits and underscores, not starting with a digit, and not `all`"
            problems.append(Problem(place, f"the task name {name!r}", allowed))
        if task.path is None and task.train is None:
            expected = "train= (with or without val= and test=) or path="
            problems.append(Problem(place, "no file", expected, f"give {place}.path=…"))
        if task.path is not None and (task.train or task.val or task.test):
            expected = "one file to be split, or files for the splits"
            problems.append(Problem(place, "path beside train, val or test", expected))
        if task.labels is not None and (len(task.labels) < 2 or len(set(task.labels)) < len(task.labels)):
            problems.append(Problem(f"{place}.labels", str(task.labels), "at least two labels, each once"))
    return problems


def _names_of_tasks(
    tasks: list[str], freeze: FreezeConfig | None, heads: HeadsConfig | None, loss: LossConfig | None
) -> list[Problem]:
    frozen = [] if freeze is None or freeze.heads == "all" else freeze.heads
    used = [("freeze.heads", name) for name in frozen]
    used += [(f"heads.tasks.{name}", name) for name in (heads.tasks if heads else ())]
    used += [(f"loss.weights.{name}", name) for name in (loss.weights if loss else ())]
    return [
        Problem(place, f"the task {name!r}", listed(tasks), did_you_mean(name, tasks))
        for place, name in used
        if tasks and name not in tasks
    ]


def _freeze(freeze: FreezeConfig) -> list[Problem]:
    problems = []
    if freeze.backbone == "lower" and freeze.train_layers is None:
        problems.append(Problem("freeze.train_layers", "null", "how many of the top layers train, a number or a share"))
    if freeze.backbone == "gradual" and freeze.gradual is None:
        problems.append(Problem("freeze.gradual", "null", "start, every and layers", "choose freeze=gradual"))
    return problems


def _backbone(backbone: BackboneConfig) -> list[Problem]:
    if backbone.path or backbone.package or backbone.random or backbone.name:
        return []
    return [
        Problem(
            "backbone", "no source of weights", "name, path or package", "choose backbone=mpnet or give backbone.path=…"
        )
    ]
