"""What a run prints before its first step: parameter groups, stages of unfreezing, batches, losses, warnings."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence

from mtl.base import formatting
from mtl.base.errors import listed
from mtl.base.terminal import console
from mtl.config.fields import DataConfig
from mtl.data.datamodule import MultiTaskDataModule
from mtl.data.sampling import StepSampler
from mtl.evaluation.run_summary import GroupRow, PlanRow, StageRow
from mtl.reporting.tables import group_table, plan_table, unfreezing_table
from mtl.training.facts import kept_heads, loss_texts
from mtl.training.freezing import FreezePlan, Unit
from mtl.training.plan import RunPlan, plan_activations
from mtl.training.run_warnings import late_layers

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
        PlanRow(task, len(plan.tasks[task].train), count.batches, count.passes, len(plan.slots[task]))
        for task, count in sampler.plan.counts.items()
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
    """Return the line to print when layers unfreeze, by the optimizer step that they start with.

    Args:
        plan: The plan of the run.
        freezing: Its freeze plan by optimizer steps.
    """
    starts = freezing.unfreezing
    return {start: _line(_unfreezing_row(plan, freezing, start)) for start in starts} if len(starts) > 1 else {}


def _line(row: StageRow) -> str:
    rates = listed(f"{name} {formatting.rate(rate)}" for name, rate in row.rates.items())
    layers = ", ".join(formatting.layer_spans(row.layers))
    return f"trains {layers}; {row.parameters:,} parameters at {rates}"
