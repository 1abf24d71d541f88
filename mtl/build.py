"""Builds the objects of a run from its configuration; below this module nobody knows what a configuration is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
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

from mtl import build_hardware
from mtl.artifact import HeadSpec, SavedModel, TaskHead, build_network, load_model, multi_stage_specs
from mtl.build_freezing import schedule
from mtl.config import Config, MultiStageConfig
from mtl.data.bucketing import Budget
from mtl.data.datamodule import EncodedSplit
from mtl.data.sampling import StepSampler
from mtl.data.tasks import TaskData
from mtl.errors import ConfigError, Problem, listed
from mtl.head_specs import multi_stage_spec
from mtl.model.encoder import Encoder
from mtl.model.multitask import MultiTaskNetwork
from mtl.model.tokenizer import load_tokenizer
from mtl.training.averaging import AveragedWeights
from mtl.training.best_checkpoint import BestCheckpoint
from mtl.training.checkpoint_files import CheckpointFiles
from mtl.training.combination import Combination
from mtl.training.curve_log import CurveLog
from mtl.training.freezing import FreezePlan
from mtl.training.guard import BadStep, StepGuard
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
    """

    network: MultiTaskNetwork
    tokenizer: Any
    heads: dict[str, TaskHead]
    trained_heads: frozenset[str]


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
    problems = []
    heads = {}
    for name, task in tasks.items():
        known = saved.tasks.get(name)
        fresh = _head(config, name, task.labels.names)
        heads[name] = fresh if known is None else replace(known, temperature=1.0, bias=None, tau=0.0)  # to fit again
        if known is not None and tuple(known.labels) != task.labels.names:
            found = f"{listed(task.labels.names)} in the data"
            expected = f"{listed(known.labels)}, in this order, as in {saved.folder}"
            repair = f"data.tasks.{name}.labels=[{', '.join(known.labels)}]"
            problems.append(Problem(f"data.tasks.{name}.labels", found, expected, repair))
    problems += _lenders_that_miss(heads, saved)
    if problems:
        raise ConfigError(problems)
    network = build_network(saved.network.encoder, heads)
    for name in set(heads) & set(saved.tasks):
        network.head(name).load_state_dict(saved.network.head(name).state_dict())
    return Start(network, saved.tokenizer, heads, frozenset(heads) & frozenset(saved.tasks))


def _lenders_that_miss(heads: Mapping[str, TaskHead], saved: SavedModel) -> Iterator[Problem]:
    """Yield the saved heads whose first stage is the head of a task that the data does not have."""
    for name, spec in multi_stage_specs(heads).items():
        lender = spec.first_stage.task if spec.first_stage else None
        if lender is not None and lender not in heads:
            found = f"{listed(heads)}: in {saved.folder} the first stage of {name} is the head of {lender}"
            repair = f"give data.tasks.{lender}.path=… too, or start from another model"
            yield Problem("data.tasks", found, f"the task {lender} too", repair)


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


def guard(config: Config, report: Callable[[BadStep], None], where: torch.device) -> StepGuard:
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
        steps: Batches of an epoch; figures are logged once per epoch at least.
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
            EarlyStopping(settings.monitor, mode="max", patience=stop.patience, min_delta=stop.min_delta, verbose=False)
        )
    return found


def resume_points(config: Config, folder: Path, stop: Stop, inputs: Mapping[str, Any]) -> ResumePoints:
    """Return what writes the checkpoints to resume from.

    Args:
        config: The run's configuration.
        folder: The run folder.
        stop: Whether the process is to end.
        inputs: Names and fingerprints of what the run depends on.
    """
    settings = config.callbacks
    rhythm = Rhythm(minutes=settings.save_every_minutes, steps=settings.save_every_steps)
    return ResumePoints(folder / CHECKPOINTS, rhythm if settings.save_last else None, stop, inputs)


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
            found.append(TensorBoardLogger(folder, name="tensorboard", version="", purge_step=purge))
        except ModuleNotFoundError:
            missing = Problem("logger", "tensorboard, which is not installed", "csv", "pip install tensorboard")
            raise ConfigError(missing) from None
    return found
