"""Training itself: from the plan of a run to its trained network."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint

from mtl.activations.frozen import FrozenActivations
from mtl.base.errors import ConfigError, Problem
from mtl.base.memory import PeakMemory, freed_memory_kept
from mtl.config.fields import DataConfig, TrainerConfig
from mtl.data.datamodule import FrozenBelow, MultiTaskDataModule, Splits
from mtl.data.order import OptimizerSteps
from mtl.data.sampling import StepSampler
from mtl.evaluation.run_metrics import Cost
from mtl.evaluation.run_summary import PlanRow
from mtl.model.adapters import merge_adapters
from mtl.reporting.tables import console, group_table, plan_table, unfreezing_table
from mtl.training import build, callbacks, facts
from mtl.training.build_losses import losses
from mtl.training.checkpoint_schema import check_fits, check_weights
from mtl.training.checkpoints import read_checkpoint
from mtl.training.compact import compact_embeddings
from mtl.training.freezing import FreezePlan, apply_freezing
from mtl.training.gradient_watch import GradientWatch
from mtl.training.guard import BadStep, BrokenWeights
from mtl.training.loop import use_exact_loops
from mtl.training.module import MultiTaskModule
from mtl.training.plan import Setting
from mtl.training.resume_points import Point
from mtl.training.stopping import Stop

log = logging.getLogger(__name__)


def _below(setting: Setting, activations: FrozenActivations, plan: FreezePlan, step: int) -> FrozenBelow | None:
    """Return what stands for the frozen layers in an optimizer step."""
    boundary = plan.boundary(step, setting.start.network.encoder.layer_names)
    rows = None if boundary is None else activations.at(boundary)
    if boundary is None or rows is None:
        return None
    return FrozenBelow(None if boundary == "embedding" else boundary, rows)


@dataclass(frozen=True, slots=True)
class Progress:
    """How a training begins and may be broken off.

    Attributes:
        stop: Whether the process is to end.
        inputs: Names and fingerprints of what the run depends on.
        point: Where it goes on; ``None``: it begins.
        activations: A checksum of the activations of frozen layers that were used so far, by boundary; may grow.
    """

    stop: Stop
    inputs: Mapping[str, Any]
    point: Point | None = None
    activations: Mapping[str, str] = field(default_factory=dict)


def fit(
    setting: Setting,
    data: MultiTaskDataModule | None,
    activations: FrozenActivations,
    history: callbacks.History,
    progress: Progress,
    report: Callable[[BadStep | BrokenWeights], None],
    watch: GradientWatch | None = None,
    connect: Callable[[torch.device], None] | None = None,
) -> Cost:
    """Train the network of a setting in place.

    Args:
        setting: What the run has settled.
        data: The batches of `training_data`; nothing where everything is frozen.
        activations: What frozen layers give for its rows.
        history: Takes the figures of each epoch.
        progress: Where training begins.
        report: Is told of each step that is not finite, and of broken weights; what it raises ends the training.
        watch: Takes the figures of the tasks' gradients.
        connect: Joins the other processes of a training in several.

    Returns:
        What training took.

    Raises:
        ConfigError: Lightning refuses a flag that it can check only now.
        ModelError: A checkpoint is damaged.
        Terminated: The process is to end.
    """
    network = setting.start.network
    total = sum(parameter.numel() for parameter in network.parameters())
    if data is None:
        return Cost(trainable_parameters=0, total_parameters=total, encoding_seconds=0.0)
    memory = PeakMemory()
    if setting.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(setting.device)
    steps = epoch_batches(setting.config.trainer, len(data.sampler))
    _check_interval(setting.config.trainer, steps)
    setting.combination.set_epoch(steps)
    module = _module(setting, data, report)
    plan = module.freezing
    meter = callbacks.Cost(activations)
    points = build.resume_points(setting.config, setting.folder, progress.stop, progress.inputs, progress.activations)
    observers = [
        meter,
        callbacks.StageLines(facts.stage_lines(setting, plan), log.info),
        callbacks.EpochLines(tuple(data.val), log.info),
        history,
        *([] if watch is None else [watch]),
        points,
    ]
    trainer = _trainer(setting, data, observers, progress.point, connect)
    use_exact_loops(trainer, points)
    if late := facts.late_stages(plan, total_steps(setting.config.trainer, len(data.sampler))):
        log.warning(late)
    _run(trainer, module, data, setting, progress)
    trained = _trained(setting, plan, meter.last_step)
    _leave(setting)
    cost = Cost(
        train_seconds=meter.seconds,
        trainable_parameters=trained,
        total_parameters=total,
        peak_memory_bytes=_peak_bytes(setting.device, memory),
        skipped_steps=module.left_out,
        encoding_seconds=meter.encoding_seconds,
    )
    return replace(cost, sentences_per_second=meter.rows / cost.total_seconds if cost.total_seconds else None)


def _trainer(
    setting: Setting,
    data: MultiTaskDataModule,
    observers: Sequence[pl.Callback],
    point: Point | None,
    connect: Callable[[torch.device], None] | None,
) -> pl.Trainer:
    return build.trainer(
        setting.config,
        setting.folder,
        setting.precision,
        observers,
        validated=bool(data.val) and setting.config.trainer.limit_val_batches != 0,
        steps=data.steps.per_epoch,
        point=point,
        place=setting.place,
        connect=connect,
    )


def _leave(setting: Setting) -> None:
    """Leave the network on the device of the run, without a gradient, its adapters merged."""
    network = setting.start.network
    network.to(setting.device)
    apply_freezing(network, FreezePlan({}), 0)
    merge_adapters(network.encoder.backbone)


def training_data(setting: Setting, splits: Splits, activations: FrozenActivations) -> MultiTaskDataModule | None:
    """Return the batches of all tasks that teach anything, and the validation rows of all; computes no activations.

    Args:
        setting: What the run has settled.
        splits: The rows of each task and split.
        activations: What frozen layers give for them.

    Returns:
        The batches; nothing where everything is frozen.
    """
    if not setting.groups:
        return None
    padded = not setting.plan.encoder_is_frozen
    train = {task: splits[task]["train"] for task in setting.tasks if setting.learns(task)}
    sampler = build.sampler(setting.config, train, setting.slots, padded=padded, place=setting.place)
    steps = optimizer_steps(setting.config.trainer, len(sampler))
    plan = setting.plan.by_steps(steps.per_epoch)
    return MultiTaskDataModule(
        train,
        {task: found["val"] for task, found in splits.items()},
        sampler,
        pad_id=setting.encoding.pad_id,
        eval_batch=build.eval_batch(setting.config, padded=padded),
        slots=setting.slots,
        steps=steps,
        frozen=lambda step: _below(setting, activations, plan, step),
    )


def _module(
    setting: Setting, data: MultiTaskDataModule, report: Callable[[BadStep | BrokenWeights], None]
) -> MultiTaskModule:
    config = setting.config
    return build.module(
        config,
        setting.start.network,
        losses(config, setting.class_counts),
        {task: len(setting.tasks[task].labels) for task in data.val},
        setting.plan.by_steps(data.steps.per_epoch),
        setting.groups,
        total_steps(config.trainer, len(data.sampler)),
        setting.precision,
        setting.combination,
        build.guard(config, report, setting.device),
    )


def _run(
    trainer: pl.Trainer, module: MultiTaskModule, data: MultiTaskDataModule, setting: Setting, progress: Progress
) -> None:
    """Train, and put back the best weights."""
    seen = [each.table for each in (*data.train.values(), *data.val.values())]
    try:
        with compact_embeddings(module.network, setting.plan, seen, setting.encoding.pad_id):
            with freed_memory_kept(), progress.stop.deferred():
                path = progress.point.path if progress.point else None
                if path is not None:
                    check_fits(path, trainer, module, data.sampler)
                if setting.place.rank:  # the first process draws dropout as one alone would, each other its own
                    torch.manual_seed(setting.config.seed + setting.place.rank)
                trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
            if setting.place.rank == 0:
                _load_best(trainer, module)
    except MisconfigurationException as error:  # a share of batches that is less than one
        raise build.refused(error) from None
    except SystemExit:  # what Lightning makes of Ctrl-C, with exit code 1 and no word
        raise KeyboardInterrupt from None


def _trained(setting: Setting, plan: FreezePlan, last_step: int) -> int:
    """Return the number of parameters that have learned up to the last step."""
    named, layers = setting.start.network.named_by_layer(), plan.trainable(last_step)
    return sum(parameter.numel() for layer in layers for _, parameter in named[layer])


def _check_interval(flags: TrainerConfig, batches: int) -> None:
    interval = flags.val_check_interval
    if isinstance(interval, int) and interval > batches and not flags.fast_dev_run:
        expected = f"at most {batches}, all batches of an epoch, or a share of them"
        raise ConfigError(Problem("trainer.val_check_interval", str(interval), expected))


def epoch_batches(flags: TrainerConfig, batches: int) -> int:
    """Return the batches of an epoch of which the data has ``batches``, with all flags that shorten it."""
    if flags.fast_dev_run:
        return min(batches, int(flags.fast_dev_run))
    limit = flags.limit_train_batches
    if limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def optimizer_steps(flags: TrainerConfig, batches: int) -> OptimizerSteps:
    """Return how the batches of training, ``batches`` per epoch in the data, become optimizer steps."""
    return OptimizerSteps(epoch_batches(flags, batches), flags.accumulate_grad_batches or 1)


def total_steps(flags: TrainerConfig, batches: int) -> int:
    """Return the optimizer steps of a whole training of ``batches`` per epoch, with all flags that shorten it."""
    epochs = 1 if flags.fast_dev_run else flags.max_epochs or (1 if flags.max_steps is None else sys.maxsize)
    steps = optimizer_steps(flags, batches).per_epoch * epochs
    return max(1, steps if flags.max_steps is None else min(steps, flags.max_steps))


def announce(setting: Setting, data: MultiTaskDataModule | None) -> None:
    """Print what learns at which rate, and what an epoch does."""
    if data is None:
        log.info("everything is frozen: nothing to train")
        return
    sampler = data.sampler
    plan = [
        PlanRow(task, len(setting.tasks[task].train), count.batches, count.passes, len(setting.slots[task]))
        for task, count in sampler.plan.counts.items()
    ]
    out = console()
    out.print(group_table(facts.group_rows(setting)))
    out.print()
    if stages := facts.stage_rows(setting):
        out.print(unfreezing_table(stages))
        out.print()
    out.print(plan_table(plan))
    losses = facts.loss_texts(setting)
    for task, text in losses.items():
        out.print(f"\nloss of {task}: {text}", markup=False)
    for line in _smaller_batches(setting.config.data, sampler):
        log.info(line)
    out.print("\n" * bool(losses) + f"{len(sampler):,} steps per epoch, {setting.precision} on {setting.device.type}\n")
    sys.stdout.flush()  # into a file or a pipe too, before the encoding that may follow for minutes


def _smaller_batches(data: DataConfig, sampler: StepSampler) -> Iterator[str]:
    """Yield for each task what keeps its batches below the size that was asked for."""
    for task, (share, needed) in sampler.too_long.items():
        yield (
            f"data.max_tokens={data.max_tokens} makes batches of {task} smaller than data.batch_size="
            f"{data.batch_size}: {share:.1%} of its rows are longer than {data.max_tokens // data.batch_size} tokens. "
            f"Full batches need data.max_tokens={needed}"
        )


def _load_best(trainer: pl.Trainer, module: MultiTaskModule) -> None:
    """Put back the weights of the best validation, if there was a choice."""
    best = next(
        (each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint) and each.monitor), None
    )
    if best is None or not best.best_model_path:
        return
    checkpoint = read_checkpoint(Path(best.best_model_path))
    check_weights(checkpoint, module, Path(best.best_model_path))
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])


def _peak_bytes(device: torch.device, memory: PeakMemory) -> int | None:
    """Return the most bytes in use since training began: of the accelerator, else of the process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else memory.bytes()
