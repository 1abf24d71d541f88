"""One training run, from a checked configuration to its folder: model, figures, predictions, report."""

from __future__ import annotations

import logging
import math
import resource
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import lightning.pytorch as pl
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint

from mtl import build, facts
from mtl.analysis import analyse_errors
from mtl.build_losses import losses
from mtl.config import Config, TrainerConfig
from mtl.data.datamodule import EncodedSplit, FrozenBelow, MultiTaskDataModule
from mtl.data.pairs import Pairs
from mtl.data.sampling import StepSampler
from mtl.data.tokenization import UNLIMITED, tokenize
from mtl.errors import ConfigError, Problem
from mtl.evaluation.metrics_file import Cost
from mtl.evaluation.retention import pair_correlation
from mtl.evaluation.retention_figures import Retention
from mtl.evaluation.scoring import Scored
from mtl.evaluation.summary import PlanRow
from mtl.evaluation.tables import console, group_table, plan_table
from mtl.features import FrozenActivations
from mtl.files import write_text_atomically
from mtl.inputs import absolute, load_inputs
from mtl.memory import freed_memory_kept
from mtl.results import Run, show, write
from mtl.scores import Splits, calibrated, logits_of_all, scored_splits
from mtl.setting import Setting, settle
from mtl.stage_scores import with_stages
from mtl.training import callbacks
from mtl.training.compact import compact_embeddings
from mtl.training.freezing import FreezePlan, apply_freezing

log = logging.getLogger(__name__)


def train(config: Config, folder: Path, choices: Mapping[str, str] | None = None) -> dict[str, dict[str, Scored]]:
    """Train, evaluate on val and test, save the model, and write everything that a run leaves.

    Args:
        config: The checked configuration.
        folder: The run folder.
        choices: The choice made in each configuration group, for the report.

    Returns:
        For each task and split its figures and predictions.

    Raises:
        MtlError: Data, weights or flags cannot be used; nothing was trained.
    """
    _quiet()
    inputs = load_inputs(config)
    setting = settle(config, folder, inputs)
    write_text_atomically(folder / "config.yaml", yaml.safe_dump(asdict(absolute(config)), sort_keys=False))
    splits = _tokenize(setting)
    activations = _frozen(setting, splits)
    ability = _ability(setting, inputs.pairs)
    history = callbacks.History()
    cost = _fit(setting, splits, activations, history)
    logits = logits_of_all(setting, splits, activations)
    heads, notes = calibrated(setting, splits, logits)
    scored = with_stages(scored_splits(setting, splits, logits, heads), heads)
    frozen = activations.at("embedding") if setting.plan.encoder_is_frozen else None
    run = Run(
        folder=folder,
        config=config,
        choices=dict(choices or {}),
        tasks=setting.tasks,
        start=replace(setting.start, heads=heads),
        groups=facts.group_rows(setting),
        cost=cost,
        scored=scored,
        facts=facts.facts(setting),
        losses=facts.losses(setting),
        warnings=[*facts.warnings(setting), *notes],
        retention=_retention(setting, inputs.pairs, ability),
        errors=analyse_errors(setting, splits, scored, frozen),
        epochs=history.epochs,
    )
    write(run)
    show(run)
    return scored


def _tokenize(setting: Setting) -> Splits:
    """Turn all rows into token ids, once."""
    length = setting.start.network.encoder.max_length or UNLIMITED
    return {
        name: {
            split: EncodedSplit(tokenize(rows.texts, setting.start.tokenizer, length), task.labels.ids(rows))
            for split, rows in task.splits.items()
        }
        for name, task in setting.tasks.items()
    }


def _ability(setting: Setting, pairs: Pairs | None) -> float | None:
    """Return how well the encoder, as it is now, ranks sentence pairs by their similarity."""
    if pairs is None:
        return None
    how = setting.encoding
    return pair_correlation(
        setting.start.network.encoder, setting.start.tokenizer, pairs, pad_id=how.pad_id, batch_size=how.batch_size
    )


def _retention(setting: Setting, pairs: Pairs | None, before: float | None) -> Retention | None:
    after = _ability(setting, pairs)
    if pairs is None or before is None or after is None:
        return None
    return Retention(before, after, len(pairs))


def _frozen(setting: Setting, splits: Splits) -> FrozenActivations:
    """Return what will compute, once, the activations of every row that the run runs through frozen layers."""
    whole = setting.plan.encoder_is_frozen  # then evaluation needs no encoder either
    tables = {
        (name, split): each.table
        for name, found in splits.items()
        for split, each in found.items()
        if (split == "train" and setting.learns(name)) or split == "val" or (split == "test" and whole)
    }
    encoder = setting.start.network.encoder
    return FrozenActivations(encoder, tables, setting.encoding, cached=setting.config.cache.activations)


def _below(setting: Setting, activations: FrozenActivations, epoch: int) -> FrozenBelow | None:
    """Return what stands for the frozen layers in ``epoch``."""
    boundary = setting.plan.boundary(epoch, setting.start.network.encoder.layer_names)
    rows = None if boundary is None else activations.at(boundary)
    if boundary is None or rows is None:
        return None
    return FrozenBelow(None if boundary == "embedding" else boundary, rows)


def _fit(setting: Setting, splits: Splits, activations: FrozenActivations, history: callbacks.History) -> Cost:
    network = setting.start.network
    total = sum(parameter.numel() for parameter in network.parameters())
    if not setting.groups:
        log.info("everything is frozen: nothing to train")
        return Cost(trainable_parameters=0, total_parameters=total)
    config = setting.config
    learning = [task for task in setting.tasks if setting.learns(task)]
    padded = not setting.plan.encoder_is_frozen
    train = {task: splits[task]["train"] for task in learning}
    sampler = build.sampler(config, train, setting.slots, padded=padded)
    data = MultiTaskDataModule(
        train,
        {task: found["val"] for task, found in splits.items()},
        sampler,
        pad_id=setting.encoding.pad_id,
        eval_batch=build.eval_batch(config, padded=padded),
        slots=setting.slots,
        frozen=lambda epoch: _below(setting, activations, epoch),
    )
    module = build.module(
        config,
        network,
        losses(config, setting.class_counts),
        {task: len(setting.tasks[task].labels) for task in data.val},
        setting.plan,
        setting.groups,
        total_steps(config.trainer, len(sampler)),
        setting.precision,
    )
    meter = callbacks.Cost()
    lines = callbacks.EpochLines(tuple(data.val), log.info)
    validated = bool(data.val) and config.trainer.limit_val_batches != 0
    extra = [meter, lines, history]
    steps = epoch_batches(config.trainer, len(sampler))
    trainer = build.trainer(config, setting.folder, setting.precision, extra, validated=validated, steps=steps)
    _check_interval(config.trainer, steps)
    _announce(setting, sampler)
    seen = [each.table for each in (*train.values(), *data.val.values())]
    try:
        with compact_embeddings(network, setting.plan, seen, setting.encoding.pad_id):
            with freed_memory_kept():
                trainer.fit(module, datamodule=data)
            _load_best(trainer, module)
    except MisconfigurationException as error:  # a share of batches that is less than one
        raise build.refused(error) from None
    except SystemExit:  # what Lightning makes of Ctrl-C, with exit code 1 and no word
        raise KeyboardInterrupt from None
    network.to(setting.device)
    apply_freezing(network, FreezePlan({}), 0)
    return Cost(
        train_seconds=meter.seconds,
        trainable_parameters=_trained(setting, meter.last_epoch),
        total_parameters=total,
        sentences_per_second=meter.rows / meter.seconds if meter.seconds else None,
        peak_memory_bytes=_peak_memory(setting.device),
    )


def _trained(setting: Setting, last_epoch: int) -> int:
    """Return the number of parameters that have learned in some epoch up to the last one."""
    network, layers = setting.start.network, setting.plan.trainable(last_epoch)
    return sum(parameter.numel() for layer in layers for _, parameter in network.layer_parameters(layer))


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


def total_steps(flags: TrainerConfig, batches: int) -> int:
    """Return the optimizer steps of a whole training of ``batches`` per epoch, with all flags that shorten it."""
    epochs = 1 if flags.fast_dev_run else flags.max_epochs or (1 if flags.max_steps is None else sys.maxsize)
    steps = math.ceil(epoch_batches(flags, batches) / (flags.accumulate_grad_batches or 1)) * epochs
    return max(1, steps if flags.max_steps is None else min(steps, flags.max_steps))


def _announce(setting: Setting, sampler: StepSampler) -> None:
    """Print what learns at which rate, and what an epoch does."""
    plan = [
        PlanRow(task, len(setting.tasks[task].train), count.batches, count.passes, len(setting.slots[task]))
        for task, count in sampler.plan.counts.items()
    ]
    out = console()
    out.print(group_table(facts.group_rows(setting)))
    out.print()
    out.print(plan_table(plan))
    losses = facts.loss_texts(setting)
    for task, text in losses.items():
        out.print(f"\nloss of {task}: {text}", markup=False)
    out.print("\n" * bool(losses) + f"{len(sampler):,} steps per epoch, {setting.precision} on {setting.device.type}\n")


def _load_best(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Put back the weights of the best validation, if there was a choice."""
    best = next(
        (each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint) and each.monitor), None
    )
    if best is None or not best.best_model_path:
        return
    checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])


def _peak_memory(device: torch.device) -> int:
    """Return the most bytes in use: of the accelerator, else of the process (kilobytes on Linux, bytes on macOS)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _quiet() -> None:
    """Silence what Lightning says about itself on every start."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*")
    warnings.filterwarnings("ignore", message=r".*in eval mode at the start of training.*")  # frozen parts: meant
