"""Make what carries out a plan: batches, module, callbacks and Lightning's trainer."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, TQDMProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from mtl.activations.frozen import FrozenActivations
from mtl.base.errors import ConfigError, Problem
from mtl.base.run_folder import CHECKPOINTS
from mtl.base.terminal import shows_bars
from mtl.config.trainer import TrainerConfig
from mtl.data.buckets import Budget
from mtl.data.datamodule import FrozenBelow, MultiTaskDataModule, Splits, TokenizedSplit
from mtl.data.order import OptimizerSteps, StepSampler
from mtl.training.averaging import AveragedWeights
from mtl.training.bad_steps import BadSteps, StepGuard
from mtl.training.callbacks import BestCheckpoint, CostMeter, EpochLines, History, UnfreezingLines
from mtl.training.checkpoints import CheckpointFiles, CurveLog
from mtl.training.description import unfreezing_line, unfreezing_rows
from mtl.training.gradient_watch import GradientWatch
from mtl.training.losses import TaskLosses, make_loss
from mtl.training.module import MultiTaskModule
from mtl.training.optimization import build_adamw, build_schedule
from mtl.training.parallel import SharedRows
from mtl.training.plan import RunPlan
from mtl.training.resume_points import Point, ResumePoints, use_exact_loops
from mtl.training.sharding import ShardedEncoder

_LOG_EVERY = 50  # as Lightning's default

log = logging.getLogger(__name__)


def make_data(plan: RunPlan, splits: Splits, activations: FrozenActivations) -> MultiTaskDataModule:
    """Return the training batches of all trained tasks and the validation rows of all tasks.

    No activations are computed yet.
    """
    train = {task: splits[task]["train"] for task in plan.tasks if task in plan.trained}
    sampler = _make_sampler(plan, train)
    steps = optimizer_steps(plan.config.trainer, len(sampler))
    freezing, layers = plan.freezing.by_steps(steps.per_epoch), plan.start.network.encoder.layer_names

    def frozen_below(step: int) -> FrozenBelow | None:
        """Return the activations that replace the frozen layers in an optimizer step."""
        boundary = freezing.boundary(step, layers)
        rows = None if boundary is None else activations.at(boundary)
        return None if boundary is None or rows is None else FrozenBelow(boundary, rows)

    return MultiTaskDataModule(
        train,
        {task: parts["val"] for task, parts in splits.items()},
        sampler,
        pad_id=plan.encoding.pad_id,
        eval_batch=_eval_batch(plan),
        slots=plan.slots,
        steps=steps,
        frozen=frozen_below,
    )


def _make_sampler(plan: RunPlan, train: Mapping[str, TokenizedSplit]) -> StepSampler:
    """Return the order of the slots of all trained tasks; embeddings of a frozen encoder need no padding."""
    data, padded = plan.config.data, not plan.freezing.encoder_is_frozen
    lengths = {
        task: rows.table.lengths[plan.slots[task]] if padded else np.ones(len(plan.slots[task]), dtype=np.int64)
        for task, rows in train.items()
    }
    return StepSampler(
        lengths,
        mode=data.interleave,
        batch_size=data.batch_size,
        max_tokens=data.max_tokens if padded else None,
        temperature=data.temperature,
        seed=plan.config.seed,
        rank=plan.process.rank,
        world_size=plan.process.world_size,
    )


def _eval_batch(plan: RunPlan) -> Budget:
    """Return how large a batch may be outside training; heads alone take many embeddings at once."""
    data = plan.config.data
    if plan.freezing.encoder_is_frozen:
        return Budget(batch_size=2**16)
    return Budget(data.eval_batch_size, 2 * data.max_tokens)


def _make_module(plan: RunPlan, data: MultiTaskDataModule, steps: int) -> MultiTaskModule:
    """Return the LightningModule that trains the network of a plan on these batches in so many optimizer steps."""
    config, settings, gradual = plan.config, plan.config.optimizer, plan.config.freeze.gradual
    freezing, scaled = plan.freezing.by_steps(data.steps.per_epoch), plan.precision == "16-mixed"
    optimizer = partial(
        build_adamw,
        plan.groups,
        betas=(settings.betas[0], settings.betas[1]),
        eps=settings.eps,
        fused=not scaled and not is_sharded(plan),
    )
    scheduler = partial(
        build_schedule,
        schedule=settings.schedule,
        total_steps=steps,
        warmup=settings.warmup,
        starts=[freezing.first.get(group.layers[0], 0) for group in plan.groups],
        stage_warmup=0 if gradual is None else gradual.warmup,
    )
    # On a GPU steps are checked as often as figures are logged, which synchronises with the device anyway.
    skips = plan.device.type == "cuda" and not is_sharded(plan)
    every = config.trainer.log_every_n_steps or _LOG_EVERY if skips else 1
    losses = {task: make_loss(config.loss.of(task), counts) for task, counts in plan.class_counts.items()}
    module = MultiTaskModule(
        plan.start.network,
        {task: len(plan.tasks[task].labels) for task in data.val},
        TaskLosses(losses, config.loss.consistency),
        plan.combination,
        freezing,
        optimizer=optimizer,
        scheduler=scheduler,
        guard=StepGuard(BadSteps(plan), plan.start.network, every=every, scaled=scaled),
    )
    module.save_hyperparameters({"config": asdict(config)}, logger=False)
    return module


@dataclass(frozen=True, slots=True)
class Training:
    """Lightning's side of a run: trainer, module, batches, and the callbacks whose figures are read after training."""

    trainer: pl.Trainer
    module: MultiTaskModule
    data: MultiTaskDataModule
    steps: int  # optimizer steps of the whole training
    meter: CostMeter
    history: History
    gradients: GradientWatch | None


def make_training(
    plan: RunPlan,
    data: MultiTaskDataModule,
    activations: FrozenActivations,
    points: ResumePoints,
    point: Point | None,
) -> Training:
    """Return trainer, module and callbacks for the batches of a plan."""
    flags, batches = plan.config.trainer, data.steps.batches
    interval = flags.val_check_interval
    if isinstance(interval, int) and interval > batches and not flags.fast_dev_run:
        expected = f"at most {batches}, all batches of an epoch, or a share of them"
        raise ConfigError(Problem("trainer.val_check_interval", str(interval), expected))
    plan.combination.set_epoch(batches)
    steps = total_steps(flags, data.steps.per_epoch)
    module = _make_module(plan, data, steps)
    meter, history = CostMeter(activations), History()
    watch = None if is_sharded(plan) else plan.config.callbacks.gradients  # FSDP2 has whole weights only within a pass
    gradients = None if watch is None else GradientWatch(watch.every_n_steps)
    unfreezing = unfreezing_rows(plan, module.freezing)
    trainer = make_trainer(
        plan,
        [
            meter,
            UnfreezingLines({start: unfreezing_line(row) for start, row in unfreezing.items()}, log.info),
            EpochLines(tuple(data.val), log.info),
            history,
            *([] if gradients is None else [gradients]),
            points,
        ],
        validated=bool(data.val) and flags.limit_val_batches != 0,
        steps_per_epoch=data.steps.per_epoch,
        point=point,
    )
    use_exact_loops(trainer, points)
    return Training(trainer, module, data, steps, meter, history, gradients)


def make_trainer(
    plan: RunPlan,
    callbacks: Sequence[pl.Callback],
    *,
    validated: bool,
    steps_per_epoch: int,
    point: Point | None,
) -> pl.Trainer:
    """Return the trainer, with averaging, best checkpoint, early stopping and progress bar beside ``callbacks``.

    The curves continue from ``point``, and figures are logged at least once per epoch.

    Raises:
        ConfigError: Lightning refuses a flag, or a logger's package is missing.
    """
    flags: dict[str, Any] = {name: value for name, value in asdict(plan.config.trainer).items() if value is not None}
    progress = plan.config.callbacks.progress and shows_bars()
    callbacks = [*callbacks, *_configured_callbacks(plan, validated=validated)]
    flags |= {
        "precision": plan.precision,
        "logger": plan.process.rank == 0 and (make_loggers(plan, point) or False),
        "plugins": [CheckpointFiles()],
        "callbacks": [*callbacks, *([TQDMProgressBar()] if progress else [])],
        # Without any checkpoint callback Lightning would add its own, which writes after each epoch.
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "enable_progress_bar": progress,
        "enable_model_summary": False,
        "default_root_dir": plan.folder,
        "log_every_n_steps": min(steps_per_epoch, flags.get("log_every_n_steps", _LOG_EVERY)),
    }
    if plan.process.world_size > 1:
        # a process knows its own device alone, as if it were a machine
        strategy = ShardedEncoder() if is_sharded(plan) else SharedRows()
        flags |= {"strategy": strategy, "num_nodes": plan.process.world_size}
        flags["plugins"].append(TorchElasticEnvironment())  # the rank from the variables of torchrun
        flags["devices"] = 1 if plan.device.index is None else [plan.device.index]
    else:  # in a job of SLURM, too: `mtl.training.ranks` has found a single process
        flags["strategy"] = "auto"
        flags["plugins"].append(LightningEnvironment())
    try:
        return pl.Trainer(**flags)
    except (MisconfigurationException, ValueError, RuntimeError, TypeError, ImportError) as error:
        raise refused(error) from None


def is_sharded(plan: RunPlan) -> bool:
    """Whether several processes share out the weights of the encoder."""
    wanted = plan.config.trainer.strategy == "fsdp"
    return wanted and plan.process.world_size > 1 and not plan.freezing.encoder_is_frozen


def refused(error: Exception) -> ConfigError:
    """Return the error for flags that Lightning refuses."""
    message = " ".join(str(error).split())
    return ConfigError(Problem("trainer", message, "flags that Lightning's Trainer accepts here"))


def _configured_callbacks(plan: RunPlan, *, validated: bool) -> list[pl.Callback]:
    settings = plan.config.callbacks
    callbacks: list[pl.Callback] = [] if settings.average is None else [AveragedWeights(settings.average.decay)]
    if settings.keep_best and validated:
        callbacks.append(BestCheckpoint(plan.folder / CHECKPOINTS, settings.monitor))
    if settings.early_stopping is not None and validated:
        stop = settings.early_stopping
        callbacks.append(
            EarlyStopping(
                settings.monitor,
                mode="max",
                patience=stop.patience,
                min_delta=stop.min_delta,
                verbose=False,
                check_finite=False,  # NaN is no improvement; Lightning would stop at the first one
            )
        )
    return callbacks


def make_loggers(plan: RunPlan, point: Point | None) -> list[Logger]:
    """Return the loggers, which continue the curves of a resumed run from its point."""
    loggers: list[Logger] = []
    if "csv" in plan.config.logger.kinds:
        loggers.append(CurveLog(plan.folder, point.log_rows if point else 0))
    if "tensorboard" in plan.config.logger.kinds:
        purge = point.log_step if point else None  # later steps will be logged again
        try:
            loggers.append(TensorBoardLogger(plan.folder, name="logs", version="", purge_step=purge))
        except ModuleNotFoundError:
            missing = Problem("logger", "tensorboard, which is not installed", "csv", "pip install tensorboard")
            raise ConfigError(missing) from None
    return loggers


def optimizer_steps(flags: TrainerConfig, batches: int) -> OptimizerSteps:
    """Return how batches make up optimizer steps, of ``batches`` in an epoch if no flag shortens it."""
    limit = flags.limit_train_batches
    if flags.fast_dev_run:
        batches = min(batches, int(flags.fast_dev_run))
    elif limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return OptimizerSteps(batches, flags.accumulate_grad_batches or 1)


def total_steps(flags: TrainerConfig, per_epoch: int) -> int:
    """Return the optimizer steps of the whole training, of which an epoch has ``per_epoch``."""
    epochs = 1 if flags.fast_dev_run else flags.max_epochs or (1 if flags.max_steps is None else sys.maxsize)
    steps = per_epoch * epochs
    return max(1, steps if flags.max_steps is None else min(steps, flags.max_steps))
