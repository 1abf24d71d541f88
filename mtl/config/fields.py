"""The schema of a training configuration: `Config` and its sections.

The sections for losses and for how training runs are in `mtl.config.loss` and `mtl.config.trainer`, checks across
values in `mtl.config.checks`.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from mtl.base import schema
from mtl.base.schema import MOST, Count, Fraction, Name, Number, Rate, Share, Width
from mtl.config.loss import LossConfig
from mtl.config.trainer import CallbacksConfig, LoggerConfig, OptimizerConfig, TrainerConfig
from mtl.config.types import Layers, Pooling, Steps, Target


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


FreezeKind = Literal["none", "all", "lower", "gradual", "lora"]
"""The frozen layers of the encoder. A scenario with these keys is a file in ``conf/freeze``; a new kind also needs its
plan in `mtl.training.freezing`, and checks across keys in `mtl.config.checks`."""


@dataclass(config=schema.STRICT)
class FreezeConfig:
    """What does not learn."""

    backbone: FreezeKind
    heads: list[str] | Literal["all"]
    """Tasks whose heads are frozen."""
    train_layers: Layers | None
    """``lower``: how many of the top layers train, a number or a share of all; ``lora``: how many get adapters."""
    gradual: GradualConfig | None
    lora: LoraConfig | None


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
