"""Describe a run in tables, lines, facts and warnings: what it prints before its first step, and its report names."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mtl.base import formatting
from mtl.base.errors import listed
from mtl.base.terminal import console
from mtl.config.fields import DataConfig
from mtl.data.batch import Boundary
from mtl.data.datamodule import MultiTaskDataModule, Splits
from mtl.data.order import StepSampler
from mtl.data.problems import plural
from mtl.evaluation.run_summary import GroupRow, PlanRow, StageRow
from mtl.model.head_specs import MultiStageSpec
from mtl.model.saved import HeadSpec, multi_stage_specs
from mtl.reporting.tables import group_table, plan_table, unfreezing_table
from mtl.training.freezing import FreezePlan, Unit
from mtl.training.losses import LOSSES, WEIGHTINGS, class_offsets, class_weights
from mtl.training.plan import RunPlan

log = logging.getLogger(__name__)


def announce(plan: RunPlan, data: MultiTaskDataModule | None, total_steps: int, warnings: Sequence[str]) -> None:
    """Print what is trained at which rate, and what an epoch does; ``data`` is None if everything is frozen."""
    if data is None:
        log.info("everything is frozen: nothing to train")
    else:
        _print_plan(plan, data, total_steps)
    if kept := kept_heads(plan):
        log.info("kept from %s: %s", plan.config.model.init_from, kept)
    for warning in warnings:
        log.warning("warning: %s", warning)
    if data is not None and (late := late_layers(plan.freezing.by_steps(data.steps.per_epoch), total_steps)):
        log.warning(late)


def _print_plan(plan: RunPlan, data: MultiTaskDataModule, total_steps: int) -> None:
    sampler = data.sampler
    rows = [
        PlanRow(task, len(plan.tasks[task].train), batches, passes, len(plan.slots[task]))
        for task, (batches, passes) in sampler.counts.items()
    ]
    out = console()
    out.print(group_table(group_rows(plan)))
    out.print()
    if unfreezing := unfreezing_rows(plan, plan.freezing):
        out.print(unfreezing_table(list(unfreezing.values())))
        out.print()
    out.print(plan_table(rows))
    losses = loss_texts(plan)
    for task, text in losses.items():
        out.print(f"\nloss of {task}: {text}", markup=False)
    for line in smaller_batches(plan.config.data, sampler):
        log.info(line)
    out.print("\n" * bool(losses) + f"{len(sampler):,} steps per epoch, {plan.precision} on {plan.device.type}\n")
    if lines := activation_lines(plan, data.steps.per_epoch, total_steps):
        out.print("\n".join(lines), markup=False)
        out.print()
    sys.stdout.flush()  # into a file or a pipe too, before the encoding that may take minutes


def activation_lines(plan: RunPlan, steps_per_epoch: int, total_steps: int) -> list[str]:
    """Return how training obtains the activations of frozen layers, a line for each change; none if no layer is frozen.

    Layers unfreeze from the top, so each boundary holds for consecutive steps.
    """
    freezing, layers = plan.freezing.by_steps(steps_per_epoch), plan.start.network.encoder.layer_names
    first_steps: dict[Boundary | None, int] = {}
    for step in sorted({0, *freezing.first.values()}):
        if step < total_steps:
            first_steps.setdefault(freezing.boundary(step, layers), step)
    if set(first_steps) == {None}:
        return []
    return [f"from step {step + 1:,}: {_activations(plan, boundary)}" for boundary, step in first_steps.items()]


def _activations(plan: RunPlan, boundary: Boundary | None) -> str:
    encoder, cached = plan.start.network.encoder, plan.config.cache.activations
    if boundary is None:
        return "all activations, computed in every step"
    if boundary == "embedding":
        kept = "read from the cache on disk" if cached else "kept in memory"
        return f"embeddings of the frozen encoder, computed once and {kept}"
    once = cached and encoder.supports_split
    how = "computed once and read from the cache on disk" if once else "computed in every step"
    return f"activations up to {encoder.layer_names[boundary]}, {how}"


def smaller_batches(data: DataConfig, sampler: StepSampler) -> Iterator[str]:
    """Yield for each task why its batches are smaller than ``data.batch_size``, if they are."""
    for task, (share, needed) in sampler.too_long.items():
        yield (
            f"data.max_tokens={data.max_tokens} makes batches of {task} smaller than data.batch_size="
            f"{data.batch_size}: {share:.1%} of its rows are longer than {data.max_tokens // data.batch_size} tokens. "
            f"Full batches need data.max_tokens={needed}"
        )


def group_rows(plan: RunPlan) -> list[GroupRow]:
    """Return the parameter groups from the top down, followed by the frozen layers."""
    rows = [
        GroupRow(
            name=group.name,
            layers=group.layers,
            learning_rate=group.rate,
            weight_decay=group.weight_decay,
            parameters=sum(parameter.numel() for parameter in group.parameters.values()),
            tensors=len(group.parameters),
            state=f"trained from {_moment(group.first, plan.freezing.unit)}" if group.first else "trained",
        )
        for group in plan.groups
    ]
    named = plan.start.network.named_by_layer()
    frozen = [layer for layer in named if layer not in plan.freezing.first]
    if frozen:
        sizes = [parameter.numel() for layer in frozen for _, parameter in named[layer]]
        rows.append(GroupRow("frozen", frozen, None, None, sum(sizes), len(sizes), state="frozen"))
    return rows


def _moment(at: int, unit: Unit) -> str:
    return f"{unit.removesuffix('s')} {at + 1:,}"


def unfreezing_rows(plan: RunPlan, freezing: FreezePlan) -> dict[int, StageRow]:
    """Return what is trained in each stage of gradual unfreezing by its first epoch or step; empty if there is one."""
    named, rows = plan.start.network.named_by_layer(), {}
    for start, begins in freezing.unfreezing.items():
        trained = freezing.trainable(start)
        layers = [layer for layer in named if layer in trained]
        rows[start] = StageRow(
            start=_moment(start, freezing.unit),
            begins=begins,
            layers=layers,
            parameters=sum(parameter.numel() for layer in layers for _, parameter in named[layer]),
            rates={group.name.partition("/")[0]: group.rate for group in plan.groups if set(group.layers) <= trained},
        )
    return rows if len(rows) > 1 else {}


def unfreezing_line(row: StageRow) -> str:
    """Return the line to print when layers unfreeze."""
    rates = listed(f"{name} {formatting.rate(rate)}" for name, rate in row.rates.items())
    layers = ", ".join(formatting.layer_spans(row.layers))
    return f"trains {layers}; {row.parameters:,} parameters at {rates}"


def facts(plan: RunPlan) -> dict[str, str]:
    """Return short facts by name."""
    loss, precision = plan.config.loss, f"{plan.precision} on {plan.device.type}"
    if plan.freezing.encoder_is_frozen and plan.encoding.precision == "bf16" and plan.precision == "32-true":
        precision += ", the frozen encoder in bf16"
    known = {
        "tasks": ", ".join(f"{name} ({len(task.labels)} classes)" for name, task in plan.tasks.items()),
        "training rows": ", ".join(_rows(plan, name) for name in plan.tasks),
        **_kept(plan),
    }
    if loss.combine != "sum" and len(plan.combination.tasks) > 1 and plan.groups:
        weights = ", ".join(f"{task} {loss.weights.get(task, 1.0):g}" for task in plan.combination.tasks)
        known["losses combined by"] = f"weights: {weights}" if loss.combine == "weighted" else loss.combine
    if stages := [_stages(plan, name, spec) for name, spec in multi_stage_specs(plan.start.heads).items()]:
        known["stages"] = "; ".join(stages)
    losses = {f"loss of {task}": text for task, text in loss_texts(plan).items()}
    return {**known, **losses, "precision": precision, "seed": str(plan.config.seed)}


def _rows(plan: RunPlan, task: str) -> str:
    rows = len(plan.tasks[task].train)
    repeated = len(plan.slots[task]) - rows
    return f"{task} {rows:,}" + (f" (+ {repeated:,} repeated)" if repeated else "")


def _kept(plan: RunPlan) -> dict[str, str]:
    """Return which parts come from a saved model, with its settings, which replace those of the configuration."""
    start = plan.start
    if plan.config.model.init_from is None:
        return {}
    length = start.network.encoder.max_length
    heads = [f"head of {task} ({_built(start.heads[task].head)})" for task in sorted(start.saved_heads)]
    parts = {"from the saved model": ", ".join([f"encoder (up to {length} tokens)" if length else "encoder", *heads])}
    kept = kept_heads(plan)
    return parts if kept is None else {**parts, "kept heads": kept}


def _built(head: HeadSpec | MultiStageSpec) -> str:
    kind = f"two stages, {head.stage_kind}" if isinstance(head, MultiStageSpec) else head.kind
    hidden = f" of {head.hidden}" if head.hidden else ""
    scale = f", scale {head.scale:g}" if head.scale != 1 else ""
    return f"{kind}{hidden}, dropout {head.dropout:g}{scale}"


def loss_settings(plan: RunPlan) -> dict[str, dict[str, Any]]:
    """Return the loss of each trained task as plain values.

    These are its settings, how often rows of each class occur in a pass over the training rows, and the weight of each
    class or what is added to its logits.
    """
    losses: dict[str, dict[str, Any]] = {}
    for task, counts in plan.class_counts.items():
        if not plan.groups or task not in plan.trained:
            continue
        labels, settings = plan.tasks[task].labels.names, plan.config.loss.of(task)
        weights, offsets = class_weights(settings, counts), class_offsets(settings, counts)
        losses[task] = {
            **asdict(settings),
            "oversample": plan.config.data.tasks[task].oversample,
            "rows": dict(zip(labels, counts.tolist(), strict=True)),
            "class_weights": None if weights is None else dict(zip(labels, weights.tolist(), strict=True)),
            "logit_offsets": None if offsets is None else dict(zip(labels, offsets.tolist(), strict=True)),
        }
    return losses


def loss_texts(plan: RunPlan) -> dict[str, str]:
    """Return a line for each task whose loss is not plain cross-entropy, with its class weights."""
    texts = {}
    for task, loss in loss_settings(plan).items():
        parts = [LOSSES[loss["kind"]].text.format(**loss)]
        if loss["label_smoothing"]:
            parts.append(f"label smoothing {loss['label_smoothing']:g}")
        if text := WEIGHTINGS[loss["weighting"]].text:
            values = loss["class_weights"] or loss["logit_offsets"]
            of_classes = listed(f"{label} {value:.3g}" for label, value in values.items())
            parts.append(f"{text.format(**loss)} {of_classes}")
        if parts != [LOSSES["cross_entropy"].text]:
            texts[task] = "; ".join(parts)
    return texts


def _stages(plan: RunPlan, task: str, spec: MultiStageSpec) -> str:
    branches = ", ".join(f"{name} ({plural(len(leaves), 'label')})" for name, leaves in spec.tree.items())
    if spec.first_stage is None:
        return f"{task}: {branches}"
    lender = spec.first_stage.task
    learns = "learns from both" if f"heads.{lender}" in plan.freezing.first else "is frozen"
    return f"{task}: {branches}, decided by the head of {lender}, which {learns}"


def kept_heads(plan: RunPlan) -> str | None:
    """Return which heads of the saved model are kept unchanged, without data in this run, if there are any."""
    names = [task for task in plan.start.heads if task in plan.start.kept and task not in plan.trained]
    if not names:
        return None
    return f"{listed(names)}: no data here, frozen with all that is below; predictions and calibration are unchanged"


def plan_warnings(plan: RunPlan) -> list[str]:
    """Return the warnings that follow from the plan of a run."""
    config = plan.config
    texts = [warning for task in plan.tasks.values() for warning in task.warnings]
    fresh = [
        task for task in plan.tasks if f"heads.{task}" not in plan.freezing.first and task not in plan.start.saved_heads
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
    if names := " or ".join(name for name, limited in limits.items() if limited):
        texts.append(f"Trained on a part of the rows only ({names}).")
    return texts


def _stale_heads(plan: RunPlan) -> list[str]:
    """Return warnings about heads that are kept without data while the layers below them change."""
    start, source = plan.start, plan.config.model.init_from
    moved = [task for task in start.heads if task in start.kept and task in plan.trained]
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
