"""Describe a run in tables, lines, facts and warnings: what it prints before its first step, and its report names."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np

from mtl.base import formatting
from mtl.base.errors import listed
from mtl.base.terminal import console
from mtl.config.fields import DataConfig
from mtl.data.datamodule import MultiTaskDataModule, Splits
from mtl.data.order import StepSampler
from mtl.data.problems import plural
from mtl.evaluation.run_summary import GroupRow, PlanRow, StageRow
from mtl.model.head_specs import MultiStageSpec
from mtl.model.saved import HeadSpec, multi_stage_specs
from mtl.reporting.tables import group_table, plan_table, unfreezing_table
from mtl.training.freezing import FreezePlan, Unit
from mtl.training.losses import LOSSES, WEIGHTINGS, class_offsets, class_weights
from mtl.training.plan import RunPlan, plan_activations

log = logging.getLogger(__name__)


def announce(plan: RunPlan, data: MultiTaskDataModule | None, total_steps: int, warnings: Sequence[str]) -> None:
    """Print what is trained at which rate, and what an epoch does."""
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
    if unfreezing := unfreezing_rows(plan):
        out.print(unfreezing_table(unfreezing))
        out.print()
    out.print(plan_table(rows))
    losses = loss_texts(plan)
    for task, text in losses.items():
        out.print(f"\nloss of {task}: {text}", markup=False)
    for line in smaller_batches(plan.config.data, sampler):
        log.info(line)
    out.print("\n" * bool(losses) + f"{len(sampler):,} steps per epoch, {plan.precision} on {plan.device.type}\n")
    phases = plan_activations(plan, data.steps.per_epoch, total_steps)
    if any(phase.boundary is not None for phase in phases):
        for phase in phases:
            out.print(str(phase), markup=False)
        out.print()
    sys.stdout.flush()  # into a file or a pipe too, before the encoding that may take minutes


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
    network = plan.start.network
    frozen = [layer for layer in network.layer_names if layer not in plan.freezing.first]
    tensors = [parameter for layer in frozen for _, parameter in network.layer_parameters(layer)]
    if frozen:
        count = sum(parameter.numel() for parameter in tensors)
        rows.append(GroupRow("frozen", frozen, None, None, count, len(tensors), state="frozen"))
    return rows


def _moment(at: int, unit: Unit) -> str:
    return f"{unit.removesuffix('s')} {at + 1:,}"


def unfreezing_rows(plan: RunPlan) -> list[StageRow]:
    """Return what is trained in each stage of gradual unfreezing, in order; nothing if there is a single stage."""
    starts = plan.freezing.unfreezing
    return [_unfreezing_row(plan, plan.freezing, start) for start in starts] if len(starts) > 1 else []


def _unfreezing_row(plan: RunPlan, freezing: FreezePlan, start: int) -> StageRow:
    network, trained = plan.start.network, freezing.trainable(start)
    layers = [layer for layer in network.layer_names if layer in trained]
    groups = [group for group in plan.groups if set(group.layers) <= trained]
    return StageRow(
        start=_moment(start, freezing.unit),
        begins=freezing.unfreezing[start],
        layers=layers,
        parameters=sum(parameter.numel() for layer in layers for _, parameter in network.layer_parameters(layer)),
        rates={group.name.partition("/")[0]: group.rate for group in groups},
    )


def unfreezing_lines(plan: RunPlan, freezing: FreezePlan) -> dict[int, str]:
    """Return the line to print when layers unfreeze, by the step they start with in a freeze plan by steps."""
    starts = freezing.unfreezing
    return {start: _line(_unfreezing_row(plan, freezing, start)) for start in starts} if len(starts) > 1 else {}


def _line(row: StageRow) -> str:
    rates = listed(f"{name} {formatting.rate(rate)}" for name, rate in row.rates.items())
    layers = ", ".join(formatting.layer_spans(row.layers))
    return f"trains {layers}; {row.parameters:,} parameters at {rates}"


def facts(plan: RunPlan) -> dict[str, str]:
    """Return short facts by name."""
    config = plan.config
    stages = {name: _stages(plan, name, spec) for name, spec in multi_stage_specs(plan.start.heads).items()}
    return {
        "tasks": ", ".join(f"{name} ({len(task.labels)} classes)" for name, task in plan.tasks.items()),
        "training rows": ", ".join(_rows(plan, name) for name in plan.tasks),
        **_kept(plan),
        **_combined(plan),
        **({"stages": "; ".join(stages.values())} if stages else {}),
        **{f"loss of {task}": text for task, text in loss_texts(plan).items()},
        "precision": _precision(plan),
        "seed": str(config.seed),
    }


def _kept(plan: RunPlan) -> dict[str, str]:
    """Return which parts come from a saved model, with its settings, which replace those of the configuration."""
    start = plan.start
    if plan.config.model.init_from is None:
        return {}
    length = start.network.encoder.max_length
    heads = [f"head of {task} ({_built(start.heads[task].head)})" for task in sorted(start.trained_heads)]
    parts = {"from the saved model": ", ".join([f"encoder (up to {length} tokens)" if length else "encoder", *heads])}
    kept = kept_heads(plan)
    return parts if kept is None else {**parts, "kept heads": kept}


def _built(head: HeadSpec | MultiStageSpec) -> str:
    kind = f"two stages, {head.stage_kind}" if isinstance(head, MultiStageSpec) else head.kind
    hidden = f" of {head.hidden}" if head.hidden else ""
    scale = f", scale {head.scale:g}" if head.scale != 1 else ""
    return f"{kind}{hidden}, dropout {head.dropout:g}{scale}"


def _precision(plan: RunPlan) -> str:
    heads = f"{plan.precision} on {plan.device.type}"
    if plan.freezing.encoder_is_frozen and plan.encoding.precision == "bf16" and plan.precision == "32-true":
        return f"{heads}, the frozen encoder in bf16"
    return heads


def _combined(plan: RunPlan) -> dict[str, str]:
    """Return how the tasks' losses are combined, unless they are summed."""
    loss, tasks = plan.config.loss, plan.combination.tasks
    if loss.combine == "sum" or len(tasks) < 2 or not plan.groups:
        return {}
    weights = ", ".join(f"{task} {loss.weights.get(task, 1.0):g}" for task in tasks)
    return {"losses combined by": f"weights: {weights}" if loss.combine == "weighted" else loss.combine}


def _rows(plan: RunPlan, task: str) -> str:
    rows = len(plan.tasks[task].train)
    repeated = len(plan.slots[task]) - rows
    return f"{task} {rows:,}" + (f" (+ {repeated:,} repeated)" if repeated else "")


def loss_settings(plan: RunPlan) -> dict[str, dict[str, object]]:
    """Return the loss of each trained task as plain values.

    These are its settings, how often rows of each class occur in a pass over the training rows, and the weight of each
    class or what is added to its logits.
    """
    losses: dict[str, dict[str, object]] = {}
    for task, counts in plan.class_counts.items():
        if not plan.groups or not plan.trains(task):
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
        settings = plan.config.loss.of(task)
        parts = [LOSSES[settings.kind].text.format(**asdict(settings))]
        if settings.label_smoothing:
            parts.append(f"label smoothing {settings.label_smoothing:g}")
        if text := WEIGHTINGS[settings.weighting].text:
            parts.append(f"{text.format(**asdict(settings))} {_values(loss)}")
        if parts != [LOSSES["cross_entropy"].text]:
            texts[task] = "; ".join(parts)
    return texts


def _values(loss: dict[str, object]) -> str:
    values = loss["class_weights"] or loss["logit_offsets"]
    assert isinstance(values, dict)  # noqa: S101 - narrows for mypy: a weighting has either
    return listed(f"{label} {value:.3g}" for label, value in values.items())


def _stages(plan: RunPlan, task: str, spec: MultiStageSpec) -> str:
    branches = ", ".join(f"{name} ({plural(len(leaves), 'label')})" for name, leaves in spec.tree.items())
    if spec.first_stage is None:
        return f"{task}: {branches}"
    lender = spec.first_stage.task
    learns = "learns from both" if f"heads.{lender}" in plan.freezing.first else "is frozen"
    return f"{task}: {branches}, decided by the head of {lender}, which {learns}"


def kept_heads(plan: RunPlan) -> str | None:
    """Return which heads of the saved model are kept unchanged, without data in this run, if there are any."""
    names = [task for task in plan.start.heads if task in plan.start.kept and not plan.trains(task)]
    if not names:
        return None
    return f"{listed(names)}: no data here, frozen with all that is below; predictions and calibration are unchanged"


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
