"""What a reader must know before trusting the scores of a run."""

from __future__ import annotations

import numpy as np

from mtl.base import formatting
from mtl.base.errors import listed
from mtl.data.datamodule import Splits
from mtl.model.saved import multi_stage_specs
from mtl.training.freezing import FreezePlan
from mtl.training.plan import RunPlan


def plan_warnings(plan: RunPlan) -> list[str]:
    """Return the warnings that follow from the plan of a run."""
    config = plan.config
    texts = [warning for task in plan.tasks.values() for warning in task.warnings]
    fresh = [
        task
        for task in plan.tasks
        if f"heads.{task}" not in plan.freezing.first and task not in plan.start.trained_heads
    ]
    if fresh:
        texts.append(
            f"The heads of {', '.join(fresh)} are untrained: they are frozen at random weights, so their figures say "
            "nothing about the task unless the encoder could adapt to them. Start from a trained model with "
            "model.init_from=<run folder>."
        )
    texts += _stale_heads(plan)
    for task, spec in multi_stage_specs(plan.start.heads).items():
        if spec.first_stage is not None and spec.first_stage.task in fresh:
            texts.append(f"The first stage of {task} is the head of {spec.first_stage.task}, which is untrained.")
    if config.loss.combine != "sum" and plan.freezing.encoder_is_frozen and len(plan.combination.tasks) > 1:
        texts.append(
            f"loss.combine={config.loss.combine} changes little here: the encoder is frozen, so the tasks share "
            "nothing that learns, and a weight of a task is no more than a factor of its head's gradient."
        )
    batches = config.trainer.limit_train_batches
    limits = {
        "fast_dev_run": bool(config.trainer.fast_dev_run),
        "limit_train_batches": batches is not None and not (isinstance(batches, float) and batches == 1),
        "data.most_batches": config.data.most_batches is not None,
    }
    if any(limits.values()):
        names = " or ".join(name for name, limited in limits.items() if limited)
        texts.append(f"Trained on a part of the rows only ({names}).")
    return texts


def _stale_heads(plan: RunPlan) -> list[str]:
    """Return warnings about heads that are kept without data while the layers below them change."""
    start, source = plan.start, plan.config.model.init_from
    moved = [task for task in start.heads if task in start.kept and plan.trains(task)]
    before = [task for task in start.heads if task in start.kept and task not in moved and start.heads[task].stale]
    texts = []
    if moved:
        files = " ".join(f"data.tasks.{task}.path=<file>" for task in moved)
        texts.append(
            f"The heads of {listed(moved)} are kept from {source} without data and become stale: what is below them is "
            "trained here, so their predictions change, nothing measures how, and their calibration is dropped. Give "
            f"their data too ({files}), or freeze the encoder (freeze=backbone)."
        )
    if before:
        texts.append(
            f"The heads of {listed(before)} are stale already in {source}: the encoder was trained after them without "
            "their data."
        )
    return texts


def cut_texts(splits: Splits, limit: int) -> list[str]:
    """Return a warning for each task of which more than 1 % of the texts have ``limit`` tokens or more."""
    texts = []
    for task, parts in splits.items():
        lengths = np.concatenate([rows.table.lengths for rows in parts.values()])
        cut = int((lengths >= limit).sum())
        if cut > len(lengths) / 100:
            texts.append(
                f"{cut:,} of {len(lengths):,} texts of {task} ({cut / len(lengths):.0%}) have {limit} tokens or more: "
                "longer texts are truncated. backbone.max_length sets the limit, up to the positions that the encoder "
                "has."
            )
    return texts


def late_layers(freezing: FreezePlan, total_steps: int) -> str | None:
    """Return a warning about layers that would unfreeze after the last step of training, if there are any."""
    late = {start: layers for start, layers in freezing.unfreezing.items() if start >= total_steps}
    if not late:
        return None
    layers = listed(span for group in late.values() for span in formatting.layer_spans(group))
    several = sum(map(len, late.values())) > 1
    unfreeze, they = ("unfreeze", "they") if several else ("unfreezes", "it")
    return (
        f"training stops after step {total_steps:,}, before {layers} {unfreeze} at step {min(late) + 1:,}: {they} will "
        "not be trained"
    )
