"""Build the objects of a run from its configuration; modules below this one take plain arguments."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, TQDMProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from mtl.base.errors import ConfigError, Problem, listed
from mtl.config.fields import Config, MultiStageConfig
from mtl.data.buckets import Budget
from mtl.data.datamodule import EncodedSplit
from mtl.data.sampling import StepSampler
from mtl.data.tasks import TaskData
from mtl.model.encoder import Encoder
from mtl.model.loading import load_tokenizer
from mtl.model.network import MultiTaskNetwork
from mtl.model.saved import HeadSpec, SavedModel, TaskHead, build_network, load_model
from mtl.training import build_hardware
from mtl.training.averaging import AveragedWeights
from mtl.training.build_freezing import schedule
from mtl.training.callbacks import BestCheckpoint
from mtl.training.checkpoints import CheckpointFiles, CurveLog
from mtl.training.combination import Combination
from mtl.training.freezing import FreezePlan
from mtl.training.guard import BadStep, BrokenWeights, StepGuard
from mtl.training.head_specs import multi_stage_spec
from mtl.training.learning_rates import ParameterGroup
from mtl.training.losses import TaskLosses
from mtl.training.module import MultiTaskModule
from mtl.training.optimization import build_adamw
from mtl.training.parallel import ALONE, Place, SummedGradients
from mtl.training.resume_points import CHECKPOINTS, LAST, PREVIOUS, Point, ResumePoints, Rhythm
from mtl.training.stopping import Stop

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Start:
    """What training starts from.

    Attributes:
        network: Encoder and heads.
        tokenizer: The encoder's tokenizer.
        heads: Labels and head of each task.
        trained_heads: The tasks whose heads come from a saved model.
        kept: Those of them that the run has no data for: their heads are frozen, and saved again.
    """

    network: MultiTaskNetwork
    tokenizer: Any
    heads: dict[str, TaskHead]
    trained_heads: frozenset[str]
    kept: frozenset[str] = frozenset()


def start(config: Config, tasks: Mapping[str, TaskData], weights: Path) -> Start:
    """Return the pretrained encoder with fresh heads, or those of a saved model.

    Args:
        config: The run's configuration.
        tasks: The data of each task, for its labels.
        weights: The encoder's folder in the hub's layout, or the saved model of ``model.init_from``.

    Raises:
        ConfigError: The saved model's labels are not those of the data.
        ModelError: The weights are damaged, or do not fit the configuration.
    """
    if config.model.init_from is not None:
        return _continued(config, tasks, load_model(weights))
    backbone = config.backbone
    encoder = Encoder.from_folder(
        weights,
        max_length=backbone.max_length,
        pooling=backbone.pooling,
        normalize=backbone.normalize,
        prompt_name=backbone.prompt_name,
    )
    heads = {name: _head(config, name, task.labels.names) for name, task in tasks.items()}
    return Start(build_network(encoder, heads), load_tokenizer(weights), heads, frozenset())


def _continued(config: Config, tasks: Mapping[str, TaskData], saved: SavedModel) -> Start:
    """Return a saved model with heads for the tasks: its own where it has them, and after those its other heads."""
    problems = []
    heads = {}
    for name, task in tasks.items():
        known = saved.tasks.get(name)
        if known is None:
            heads[name] = _head(config, name, task.labels.names)
            continue
        heads[name] = replace(known, temperature=1.0, bias=None, tau=0.0, stale=False)  # to fit again
        if tuple(known.labels) != task.labels.names:
            problems.append(_other_labels(name, task.labels.names, known.labels, saved.folder))
    if problems:
        raise ConfigError(problems)
    kept = {name: head for name, head in saved.tasks.items() if name not in tasks}
    network = build_network(saved.network.encoder, {**heads, **kept})
    for name in saved.tasks:
        network.head(name).load_state_dict(saved.network.head(name).state_dict())
    return Start(network, saved.tokenizer, {**heads, **kept}, frozenset(saved.tasks), frozenset(kept))


def _other_labels(task: str, labels: Sequence[str], saved: Sequence[str], folder: Path) -> Problem:
    """Return the problem of a task whose labels are not those of its saved head."""
    key = f"data.tasks.{task}.labels"
    if set(labels) == set(saved):
        repair = shlex.quote(f"{key}=[{','.join(map(_quoted, saved))}]")
    else:
        repair = (
            "write the labels in the files as the model has them, or rename the task in the configuration, for example "
            f"to {task}_new: it gets a new head, and the saved head of {task} is kept beside it"
        )
    expected = f"{listed(saved)}, in this order, as in {folder}"
    return Problem(key, f"{listed(labels)} in the data", expected, repair)


def _quoted(label: str) -> str:
    """Return a label as an element of a list on the command line."""
    if label.isidentifier() and label.lower() not in ("null", "true", "false", "nan", "inf"):
        return label
    escaped = label.replace('"', '\\"')
    return f'"{escaped}"'


def _head(config: Config, task: str, labels: Sequence[str]) -> TaskHead:
    head = config.heads.of(task)
    if isinstance(head, MultiStageConfig):
        return TaskHead(labels=list(labels), head=multi_stage_spec(head, labels))
    spec = HeadSpec(kind=head.kind, dropout=head.dropout, hidden=head.hidden, scale=head.scale)
    return TaskHead(labels=list(labels), head=spec)


def sampler(
    config: Config,
    train: Mapping[str, EncodedSplit],
    slots: Mapping[str, NDArray[np.int64]],
    *,
    padded: bool,
    place: Place = ALONE,
) -> StepSampler:
    """Return the order of the slots of all tasks.

    Args:
        config: The run's configuration.
        train: The training rows of each task that learns.
        slots: The row in each slot.
        padded: Whether rows differ in length; embeddings do not.
        place: Which of several processes this is.
    """
    lengths = {
        task: train[task].table.lengths[rows] if padded else np.ones(len(rows), dtype=np.int64)
        for task, rows in slots.items()
        if task in train
    }
    return StepSampler(
        lengths,
        mode=config.data.interleave,
        batch_size=config.data.batch_size,
        max_tokens=config.data.max_tokens if padded else None,
        temperature=config.data.temperature,
        seed=config.seed,
        rank=place.rank,
        world_size=place.world_size,
    )


def eval_batch(config: Config, *, padded: bool) -> Budget:
    """Return how large a batch may be when nothing is trained; heads alone take many embeddings at once."""
    if not padded:
        return Budget(batch_size=2**16)
    return Budget(config.data.eval_batch_size, 2 * config.data.max_tokens)


def module(
    config: Config,
    network: MultiTaskNetwork,
    losses: TaskLosses,
    classes: Mapping[str, int],
    plan: FreezePlan,
    parameter_groups: Sequence[ParameterGroup],
    total_steps: int,
    precision: str,
    combination: Combination | None = None,
    guard: StepGuard | None = None,
) -> MultiTaskModule:
    """Return the LightningModule.

    Args:
        config: The run's configuration.
        network: Encoder and heads.
        losses: The tasks' losses.
        classes: The number of classes of each task that is validated.
        plan: What learns when, by optimizer steps.
        parameter_groups: All parameters that ever learn.
        total_steps: Optimizer steps of the whole training.
        precision: Lightning's precision flag.
        combination: How the tasks' losses become one; by default their sum.
        guard: Keeps steps that are not finite away from the weights.
    """
    settings = config.optimizer
    return MultiTaskModule(
        network,
        classes,
        losses,
        plan,
        optimizer=partial(
            build_adamw,
            parameter_groups,
            betas=(settings.betas[0], settings.betas[1]),
            eps=settings.eps,
            fused=precision != "16-mixed",
        ),
        schedule=schedule(config, plan, parameter_groups, total_steps),
        hyperparameters=asdict(config),
        combination=combination,
        guard=guard,
    )


def guard(config: Config, report: Callable[[BadStep | BrokenWeights], None], where: torch.device) -> StepGuard:
    """Return what judges each step: at once, on a GPU as often as figures are logged, when it has to wait anyway."""
    return StepGuard(report, every=config.trainer.log_every_n_steps or 50 if where.type == "cuda" else 1)


def trainer(
    config: Config,
    folder: Path,
    chosen_precision: str,
    callbacks: Sequence[pl.Callback],
    *,
    validated: bool,
    steps: int = 50,
    point: Point | None = None,
    place: Place = ALONE,
    connect: Callable[[torch.device], None] | None = None,
) -> pl.Trainer:
    """Return the trainer.

    Args:
        config: The run's configuration.
        folder: The run folder.
        chosen_precision: Lightning's precision flag.
        callbacks: What runs beside training, in addition to the best checkpoint, early stopping and the progress bar.
        validated: Whether there are validation rows.
        steps: Optimizer steps of an epoch; figures are logged once per epoch at least.
        point: Where a resumed run goes on, for the curves.
        place: Which of several processes this is.
        connect: Joins those processes; nothing for a trainer that will not train.

    Raises:
        ConfigError: Lightning refuses a flag, or a logger's package is missing.
    """
    given = {name: value for name, value in asdict(config.trainer).items() if value is not None}
    progress = config.callbacks.progress and os.isatty(2)
    saving = _checkpoints(config, folder, validated)
    flags = {
        **given,
        "precision": chosen_precision,
        "logger": place.rank == 0 and (loggers(config, folder, point) or False),
        "plugins": [CheckpointFiles({LAST: PREVIOUS})],
        "callbacks": [*callbacks, *saving, *([TQDMProgressBar()] if progress else [])],
        # Where no checkpoint is asked for, Lightning would write one of its own after each epoch.
        "enable_checkpointing": any(isinstance(each, Checkpoint) for each in (*callbacks, *saving)),
        "enable_progress_bar": progress,
        "enable_model_summary": False,
        "default_root_dir": folder,
        "log_every_n_steps": min(steps, given.get("log_every_n_steps", 50)),
    }
    if place.world_size > 1:
        flags |= _in_parallel(config, place, connect)
    try:
        return pl.Trainer(**flags)
    except (MisconfigurationException, ValueError, RuntimeError, TypeError, ImportError) as error:
        raise refused(error) from None


def _in_parallel(config: Config, place: Place, connect: Callable[[torch.device], None] | None) -> dict[str, Any]:
    """Return the flags that one of several processes has in place of the configured ones."""
    where = build_hardware.device(config.trainer, place.rank)
    return {
        "strategy": SummedGradients(place, connect or (lambda _: None)),
        "devices": 1 if where.index is None else [where.index],
    }


def refused(error: Exception) -> ConfigError:
    """Return the error for flags that Lightning refuses."""
    message = " ".join(str(error).split())
    return ConfigError(Problem("trainer", message, "flags that Lightning's Trainer accepts here"))


def _checkpoints(config: Config, folder: Path, validated: bool) -> list[pl.Callback]:
    settings = config.callbacks
    found: list[pl.Callback] = [] if settings.average is None else [AveragedWeights(settings.average.decay)]
    if settings.keep_best and validated:
        found.append(BestCheckpoint(folder / CHECKPOINTS, settings.monitor))
    if settings.early_stopping is not None and validated:
        stop = settings.early_stopping
        found.append(
            EarlyStopping(
                settings.monitor,
                mode="max",
                patience=stop.patience,
                min_delta=stop.min_delta,
                verbose=False,
                check_finite=False,  # NaN is no rise; Lightning would stop at the first one
            )
        )
    return found


def resume_points(
    config: Config, folder: Path, stop: Stop, inputs: Mapping[str, Any], activations: Mapping[str, str]
) -> ResumePoints:
    """Return what writes the checkpoints to resume from.

    Args:
        config: The run's configuration.
        folder: The run folder.
        stop: Whether the process is to end.
        inputs: Names and fingerprints of what the run depends on.
        activations: A checksum of the activations of frozen layers that were used so far; may grow.
    """
    settings = config.callbacks
    rhythm = Rhythm(minutes=settings.save_every_minutes, steps=settings.save_every_steps)
    return ResumePoints(folder / CHECKPOINTS, rhythm if settings.save_last else None, stop, inputs, activations)


def loggers(config: Config, folder: Path, point: Point | None = None) -> list[Logger]:
    """Return the loggers.

    Args:
        config: The run's configuration.
        folder: The run folder.
        point: Where a resumed run goes on, for the curves.

    Raises:
        ConfigError: A logger's package is missing.
    """
    found: list[Logger] = []
    if "csv" in config.logger.kinds:
        found.append(CurveLog(folder, point.log_rows if point else 0))
    if "tensorboard" in config.logger.kinds:
        purge = point.log_step if point else None  # what is behind it will be logged again
        try:
            found.append(TensorBoardLogger(folder, name="logs", version="", purge_step=purge))
        except ModuleNotFoundError:
            missing = Problem("logger", "tensorboard, which is not installed", "csv", "pip install tensorboard")
            raise ConfigError(missing) from None
    return found
