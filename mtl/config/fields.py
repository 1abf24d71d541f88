"""The schema of a training configuration, and `load`: every check that needs neither torch nor a data file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field
from pydantic.dataclasses import dataclass

from mtl.base import schema
from mtl.base.errors import ConfigError, Problem
from mtl.base.schema import MOST, Count, Fraction, Name, Number, Rate, Share, Width
from mtl.config.checks import cross_checks
from mtl.config.combine import Combine, DwaConfig, FamoConfig, GradientsConfig, UncertaintyConfig
from mtl.config.freezing import Decay, FreezeConfig, Layerwise, Uniform
from mtl.config.short_forms import alone, settle_tasks, split_alike
from mtl.config.types import Batches, BatchesOrNone, Devices, Duration, Pooling, Steps


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
class TaskConfig:
    """The files and columns of one task."""

    train: Name | None = None
    val: Name | None = None
    test: Name | None = None
    path: Name | None = None
    """One file that is split by `DataConfig.split`, instead of ``train``."""
    dataset: Name | None = None
    """A data set instead of files: its id on the hub, a folder that `datasets.load_dataset` understands, or one that
    ``save_to_disk`` wrote."""
    config: Name | None = None
    """The configuration of the data set, if it has several."""
    revision: Name | None = None
    """Branch, tag or commit of the data set on the hub; ``null``: the main branch."""
    splits: dict[Literal["train", "val", "test"], Name | None] | None = None
    """The split of the data set for train, val and test, ``null`` for none; by default those with the usual names."""
    text_column: Name = "text"
    label_column: Name = "label"
    labels: list[Name] | None = None
    """The labels in the order of the head's outputs; ``null``: those of the training rows, sorted, or in the order of
    the data set's classes."""
    oversample: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How far rows of rare classes are repeated in training: 0 not at all, 1 until all classes are equally frequent."""
    slices: list[Name] = field(default_factory=list)
    """Further columns of the files: the error analysis gives the figures for each of their values."""
    missing: Literal["skip", "error"] = "skip"
    """What to do about rows without a label: leave them out, or refuse the file."""
    split_with: list[Name] | None = None
    """Label columns of the tasks that are split off the same file, see `mtl.data.tasks.TaskSpec`; ``null``: all of
    them, ``[]``: the task has a split of its own."""


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
    max_tokens: Annotated[int, Field(ge=16, le=MOST)]
    """Most padded tokens of one task's batch."""
    train_share: Annotated[float, Field(gt=0, le=1)]
    """Share of each task's training rows that is used, see `mtl.data.tasks.TaskSpec`."""
    most_batches: Count | None = None
    """Batches of rows of each split and task, a sample by the seed, to see whether everything runs; ``null``: all,
    as runs of earlier versions have it."""


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
class TaskLossConfig:
    """One task's loss; formulas and sources in `mtl.training.losses` and `mtl.training.losses`."""

    kind: Literal["cross_entropy", "focal"]
    weighting: Literal["none", "balanced", "effective_number", "logit_adjustment"]
    """What makes up for rare classes."""
    weighting_power: Annotated[float, Field(ge=0, le=1)]
    """``balanced``: exponent of the weights; 1 makes up for the whole imbalance, 0.5 for its square root."""
    beta: Share
    """``effective_number``: how slowly further rows of a class stop to count; towards 1 it becomes ``balanced``."""
    tau: Annotated[float, Field(ge=0)]
    """``logit_adjustment``: factor of the log frequencies; 1 is consistent with the balanced error."""
    gamma: Annotated[float, Field(ge=0)]
    """``focal``: how much rows that are right already count less; 0 is cross-entropy."""
    label_smoothing: Share
    """Share of the target that is spread over all classes."""


@dataclass(config=schema.STRICT)
class LossConfig:
    """The tasks' losses, and how they become one; see `mtl.config.short_forms` for the short form."""

    combine: Combine
    weights: dict[str, Annotated[float, Field(gt=0)]]
    """``weighted``: factors of the tasks' losses in the sum; 1 for a task that is not named."""
    uncertainty: UncertaintyConfig
    dwa: DwaConfig
    famo: FamoConfig
    consistency: Annotated[float, Field(ge=0)]
    """R-Drop: weight of the divergence between two passes of a step's rows; 0: one pass."""
    default: TaskLossConfig
    tasks: dict[str, TaskLossConfig]

    def of(self, task: str) -> TaskLossConfig:
        """Return the loss of ``task``."""
        return self.tasks.get(task, self.default)


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
    """Which loggers write into the run folder."""

    kinds: list[Literal["csv", "tensorboard"]]


@dataclass(config=schema.STRICT)
class ModelConfig:
    """Where training starts."""

    init_from: Name | None
    """A run folder or a saved model whose encoder and heads are the start."""


@dataclass(config=schema.STRICT)
class StudyConfig:
    """A sweep whose jobs belong together, see `mtl.training.study`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")] | None
    """What its folder is called; ``null``: the sweep is no study."""
    epochs: Count
    """Epochs of the files in ``conf/scenario`` in which the encoder learns."""


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
class RetentionConfig:
    """Sentence pairs that tell how much of its general ability the encoder keeps."""

    path: Name | None
    """A file of pairs; ``null``: not measured."""
    first_column: Name
    second_column: Name
    score_column: Name
    """How similar the two are, a number; only the order of the numbers counts."""


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


def load(cfg: DictConfig | Mapping[str, Any]) -> Config:
    """Check a composed configuration and return it typed.

    Args:
        cfg: What Hydra composed, or the same as plain mappings.

    Returns:
        The configuration.

    Raises:
        ConfigError: All problems together, each with its full key.
    """
    problems: list[Problem] = []
    values, unknown = alone(split_alike(_plain(cfg, (), problems)))
    settled = settle_tasks(values)
    config, wrong = schema.check(Config, settled.values)
    wrong = [_file_of_task(each, settled.values) for each in wrong]
    for found in map(settled.as_written, (wrong, [*unknown, *settled.problems, *cross_checks(settled.values)])):
        known = [f"{problem.place}." for problem in problems]
        problems += [each for each in found if not any(place.startswith(f"{each.place}.") for place in known)]
    if problems or config is None:
        raise ConfigError(problems)
    return config


def _file_of_task(problem: Problem, values: Mapping[str, Any]) -> Problem:
    """Return the problem with its repair where a task's file stands in the place of the task's keys."""
    data = values.get("data")
    tasks = data.get("tasks") if isinstance(data, Mapping) else None
    name = problem.place.removeprefix("data.tasks.")
    file = tasks.get(name) if isinstance(tasks, Mapping) and name != problem.place else None
    return replace(problem, repair=f"give {problem.place}.path={file}") if isinstance(file, str) else problem


def _plain(node: Any, path: schema.Path, problems: list[Problem]) -> Any:
    """Return plain values; what is missing or cannot be resolved is left out, and noted."""
    if not isinstance(node, DictConfig | ListConfig):
        return node
    values: dict[Any, Any] = {}
    parts: Iterable[Any] = range(len(node)) if isinstance(node, ListConfig) else node
    for part in parts:
        place = (*path, part)
        try:
            values[part] = _plain(node[part], place, problems)
        except OmegaConfBaseException as error:
            key = schema.key(place)
            found = "no value (???)" if OmegaConf.is_missing(node, part) else str(error).splitlines()[0]
            problems.append(Problem(key, found, "a value that can be resolved", f"give {key}=…"))
    return list(values.values()) if isinstance(node, ListConfig) else values
