"""Train the network of a prepared run, with what has to be measured before and during the training."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from mtl.base.memory import PeakMemory, freed_memory_kept, freed_memory_returned
from mtl.data.tokens import UNLIMITED
from mtl.evaluation.records import EpochFigures
from mtl.evaluation.retention import pair_correlation
from mtl.evaluation.run_metrics import Cost
from mtl.evaluation.run_summary import GroupRow, StageRow
from mtl.evaluation.task_gradients import GradientFigures
from mtl.model.adapters import merge_adapters
from mtl.training.analysis import SentenceMaps
from mtl.training.callbacks import BestCheckpoint
from mtl.training.checkpoint_schema import check_fits, check_weights
from mtl.training.checkpoints import read_checkpoint
from mtl.training.compact import compact_embeddings
from mtl.training.description import announce, cut_texts, group_rows, plan_warnings, unfreezing_rows
from mtl.training.freezing import FreezePlan, apply_freezing
from mtl.training.module import MultiTaskModule
from mtl.training.parallel import check_same_inputs
from mtl.training.prepare import Prepared
from mtl.training.ranks import Group
from mtl.training.sharding import collect
from mtl.training.trainer import Training, is_sharded, refused


@dataclass(frozen=True, slots=True)
class Trained:
    """A run whose network is trained."""

    cost: Cost
    groups: Sequence[GroupRow]
    unfreezing: Sequence[StageRow]  # the stages of gradual unfreezing; none if everything is trained from the start
    epochs: Sequence[EpochFigures]
    warnings: Sequence[str]  # those that were known before training
    ability: float | None  # see `encoder_ability`, before training
    maps: SentenceMaps  # before training
    gradients: GradientFigures | None  # whether the gradients of the tasks agreed, if the run measures it


def fit(run: Prepared, group: Group | None) -> Trained:
    """Train the network of a run in place, with the other processes of a group if there is one."""
    plan, training = run.plan, run.training
    groups = group_rows(plan)  # before adapters are merged
    unfreezing = list(unfreezing_rows(plan, plan.freezing).values())
    warnings = [*plan_warnings(plan), *cut_texts(run.splits, plan.start.network.encoder.max_length or UNLIMITED)]
    announce(plan, None if training is None else training.data, 0 if training is None else training.steps, warnings)
    ability = encoder_ability(run)
    frozen = run.activations.at("embedding") if plan.freezing.encoder_is_frozen else None
    maps = SentenceMaps.begin(plan, run.splits, frozen)
    cost = fit_network(run, group)
    run.training = None  # frees the optimizer and its state before the evaluation
    return Trained(
        cost=cost,
        groups=groups,
        unfreezing=unfreezing,
        epochs=[] if training is None else training.history.epochs,
        warnings=warnings,
        ability=ability,
        maps=maps,
        gradients=None if training is None or training.gradients is None else training.gradients.figures,
    )


def encoder_ability(run: Prepared) -> float | None:
    """Return how well the encoder, as it is now, ranks sentence pairs by similarity; None if the run has no pairs."""
    if run.pairs is None:
        return None
    start, encoding = run.plan.start, run.plan.encoding
    return pair_correlation(
        start.network.encoder, start.tokenizer, run.pairs, pad_id=encoding.pad_id, batch_size=encoding.batch_size
    )


def fit_network(run: Prepared, group: Group | None) -> Cost:
    """Train the network of a run in place, in this process; see `fit`."""
    plan, training = run.plan, run.training
    network = plan.start.network
    total = sum(parameter.numel() for parameter in network.parameters())
    if training is None:
        return Cost(trainable_parameters=0, total_parameters=total, encoding_seconds=0.0)
    memory = PeakMemory()
    if plan.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(plan.device)
    with nullcontext() if group is None else group.joined(plan.device, plan.folder):
        if group is not None:
            check_same_inputs(run.fingerprint, plan.device)
        _run_trainer(run, training)
    meter, module = training.meter, training.module
    trained = module.freezing.trainable(meter.last_step)
    parameters = network.named_by_layer()
    cost = Cost(
        train_seconds=meter.seconds,
        trainable_parameters=sum(parameter.numel() for layer in trained for _, parameter in parameters[layer]),
        total_parameters=total,
        peak_memory_bytes=(
            torch.cuda.max_memory_allocated(plan.device) if plan.device.type == "cuda" else memory.bytes()
        ),
        skipped_steps=module.guard.left_out,
        encoding_seconds=meter.encoding_seconds,
    )
    network.to(plan.device)
    apply_freezing(network, FreezePlan({}), 0)  # for evaluation everything is frozen and in eval mode
    merge_adapters(network.encoder.backbone)
    return replace(cost, sentences_per_second=meter.rows / cost.total_seconds if cost.total_seconds else None)


def _run_trainer(run: Prepared, training: Training) -> None:
    """Run the trainer, and restore the best weights."""
    plan, module, data = run.plan, training.module, training.data
    tables = [rows.table for rows in (*data.train.values(), *data.val.values())]
    try:
        with compact_embeddings(module.network, plan.freezing, tables, plan.encoding.pad_id):
            with freed_memory_returned() if is_sharded(plan) else freed_memory_kept(), run.stop.deferred():
                path = run.point.path if run.point else None
                if path is not None:
                    check_fits(path, training.trainer, module, data.sampler)
                if plan.process.rank:  # the first process draws the dropout of a single process, each other one its own
                    torch.manual_seed(plan.config.seed + plan.process.rank)
                training.trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
            if is_sharded(plan):
                collect(module.network, plan.start.network)
                module.network = plan.start.network
            if plan.process.rank == 0:
                _load_best(training.trainer, module)
    except MisconfigurationException as error:  # a share of batches that is less than one
        raise refused(error) from None
    except SystemExit:  # Lightning ends on Ctrl-C with exit code 1 and no message
        raise KeyboardInterrupt from None


def _load_best(trainer: pl.Trainer, module: MultiTaskModule) -> None:
    """Load the weights of the best validation, if they were saved."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, BestCheckpoint) and callback.best_model_path:
            path = Path(callback.best_model_path)
            checkpoint = read_checkpoint(path)
            check_weights(checkpoint, module, path)
            module.on_load_checkpoint(checkpoint)
            module.load_state_dict(checkpoint["state_dict"])
            return
