"""What a report says of a run beside its figures: parameter groups, facts, warnings."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from mtl.base import formatting
from mtl.base.errors import listed
from mtl.data.datamodule import Splits
from mtl.data.problems import plural
from mtl.evaluation.run_summary import GroupRow, StageRow
from mtl.model.head_specs import MultiStageSpec
from mtl.model.saved import HeadSpec, multi_stage_specs
from mtl.training.build_losses import class_offsets, class_weights
from mtl.training.freezing import FreezePlan, Unit
from mtl.training.plan import Setting

_WEIGHTINGS = {
    "balanced": "balanced class weights (power {weighting_power:g}):",
    "effective_number": "class weights by effective number (beta {beta:g}):",
    "logit_adjustment": "logits adjusted in training (tau {tau:g}) by",
}
"""What each weighting is called in front of its values."""


def group_rows(setting: Setting) -> list[GroupRow]:
    """Return the parameter groups from the top down, and last what stays frozen."""
    rows = [
        GroupRow(
            name=group.name,
            layers=group.layers,
            learning_rate=group.rate,
            weight_decay=group.weight_decay,
            parameters=sum(parameter.numel() for parameter in group.parameters.values()),
            tensors=len(group.parameters),
            state=_state(group.first, setting.plan.unit),
        )
        for group in setting.groups
    ]
    network = setting.start.network
    frozen = [layer for layer in network.layer_names if layer not in setting.plan.first]
    tensors = [parameter for layer in frozen for _, parameter in network.layer_parameters(layer)]
    if frozen:
        count = sum(parameter.numel() for parameter in tensors)
        rows.append(GroupRow("frozen", frozen, None, None, count, len(tensors), state="frozen"))
    return rows


def _state(first: int, unit: Unit) -> str:
    return f"trained from {_moment(first, unit)}" if first else "trained"


def _moment(at: int, unit: Unit) -> str:
    return f"{unit.removesuffix('s')} {at + 1:,}"


def stage_rows(setting: Setting) -> list[StageRow]:
    """Return what each stage of gradual unfreezing trains, in order; nothing where everything learns from the start."""
    plan, stages = setting.plan, setting.plan.stages
    if len(stages) < 2:
        return []
    return [_stage_row(setting, plan, start) for start in stages]


def _stage_row(setting: Setting, plan: FreezePlan, start: int) -> StageRow:
    """Return what trains in the stage that begins with ``start``; the parameters are counted as they are named."""
    network, learns = setting.start.network, plan.trainable(start)
    learning = [layer for layer in network.layer_names if layer in learns]
    groups = [group for group in setting.groups if set(group.layers) <= learns]
    return StageRow(
        start=_moment(start, plan.unit),
        begins=plan.stages[start],
        layers=learning,
        parameters=sum(parameter.numel() for layer in learning for _, parameter in network.layer_parameters(layer)),
        rates={group.name.partition("/")[0]: group.rate for group in groups},
    )


def stage_lines(setting: Setting, plan: FreezePlan) -> dict[int, str]:
    """Return what is said when a stage begins, by the optimizer step that it begins with; see `stage_rows`.

    Args:
        setting: What the run has settled.
        plan: Its plan by optimizer steps.
    """
    if len(plan.stages) < 2:
        return {}
    rows = {start: _stage_row(setting, plan, start) for start in plan.stages}
    return {start: _line(row) for start, row in rows.items()}


def _line(row: StageRow) -> str:
    by_rate = listed(f"{name} {formatting.rate(rate)}" for name, rate in row.rates.items())
    layers = ", ".join(formatting.layer_spans(row.layers))
    return f"trains {layers}; {row.parameters:,} parameters at {by_rate}"


def late_stages(plan: FreezePlan, total_steps: int) -> str | None:
    """Return what a reader must know of stages that begin behind the last step of training.

    Args:
        plan: What learns when, by optimizer steps.
        total_steps: Optimizer steps of the whole training.
    """
    late = {start: layers for start, layers in plan.stages.items() if start >= total_steps}
    if not late:
        return None
    layers = listed(span for found in late.values() for span in formatting.layer_spans(found))
    return f"training ends with step {total_steps:,}, and step {min(late) + 1:,} comes never: {layers} will not learn"


def facts(setting: Setting) -> dict[str, str]:
    """Return short facts by name."""
    config = setting.config
    stages = {name: _stages(setting, name, spec) for name, spec in multi_stage_specs(setting.start.heads).items()}
    return {
        "tasks": ", ".join(f"{name} ({len(task.labels)} classes)" for name, task in setting.tasks.items()),
        "training rows": ", ".join(_rows(setting, name) for name in setting.tasks),
        **_kept(setting),
        **_combined(setting),
        **({"stages": "; ".join(stages.values())} if stages else {}),
        **{f"loss of {task}": text for task, text in loss_texts(setting).items()},
        "precision": _precision(setting),
        "seed": str(config.seed),
    }


def _kept(setting: Setting) -> dict[str, str]:
    """Return what a saved model gave, with the settings it was built by: those of the configuration have no effect."""
    start = setting.start
    if setting.config.model.init_from is None:
        return {}
    length = start.network.encoder.max_length
    heads = [f"head of {task} ({_built(start.heads[task].head)})" for task in sorted(start.trained_heads)]
    found = {"from the saved model": ", ".join([f"encoder (up to {length} tokens)" if length else "encoder", *heads])}
    kept = kept_heads(setting)
    return found if kept is None else {**found, "kept heads": kept}


def _built(head: HeadSpec | MultiStageSpec) -> str:
    kind = f"two stages, {head.stage_kind}" if isinstance(head, MultiStageSpec) else head.kind
    hidden = f" of {head.hidden}" if head.hidden else ""
    scale = f", scale {head.scale:g}" if head.scale != 1 else ""
    return f"{kind}{hidden}, dropout {head.dropout:g}{scale}"


def _precision(setting: Setting) -> str:
    """Return what was computed in which precision: a frozen encoder's may be another than that of the heads."""
    heads = f"{setting.precision} on {setting.device.type}"
    if setting.plan.encoder_is_frozen and setting.encoding.precision == "bf16" and setting.precision == "32-true":
        return f"{heads}, the frozen encoder in bf16"
    return heads


def _combined(setting: Setting) -> dict[str, str]:
    """Return how the tasks' losses became one, unless that is their sum."""
    loss, tasks = setting.config.loss, setting.combination.tasks
    if loss.combine == "sum" or len(tasks) < 2 or not setting.groups:
        return {}
    weights = ", ".join(f"{task} {loss.weights.get(task, 1.0):g}" for task in tasks)
    return {"losses combined by": f"weights: {weights}" if loss.combine == "weighted" else loss.combine}


def _rows(setting: Setting, task: str) -> str:
    rows = len(setting.tasks[task].train)
    repeated = len(setting.slots[task]) - rows
    return f"{task} {rows:,}" + (f" (+ {repeated:,} repeated)" if repeated else "")


def losses(setting: Setting) -> dict[str, dict[str, object]]:
    """Return how each task that learns is taught, as plain values.

    For each task its settings, how often rows of each class come in a pass over the training rows, and the weight of
    each class or what is added to its logits.
    """
    found: dict[str, dict[str, object]] = {}
    for task, counts in setting.class_counts.items():
        if not setting.groups or not setting.learns(task):
            continue
        labels, settings = setting.tasks[task].labels.names, setting.config.loss.of(task)
        evened = {
            "class_weights": class_weights(settings, counts),
            "logit_offsets": class_offsets(settings, counts),
        }
        found[task] = {
            **asdict(settings),
            "oversample": setting.config.data.tasks[task].oversample,
            "rows": dict(zip(labels, counts.tolist(), strict=True)),
            **{
                name: None if values is None else dict(zip(labels, values.tolist(), strict=True))
                for name, values in evened.items()
            },
        }
    return found


def loss_texts(setting: Setting) -> dict[str, str]:
    """Return the losses that are not plain cross-entropy, by task, each with its weights as a line."""
    texts = {}
    for task, loss in losses(setting).items():
        settings = setting.config.loss.of(task)
        parts = [f"focal, gamma {settings.gamma:g}" if settings.kind == "focal" else "cross-entropy"]
        if settings.label_smoothing:
            parts.append(f"label smoothing {settings.label_smoothing:g}")
        if settings.weighting != "none":
            parts.append(f"{_WEIGHTINGS[settings.weighting].format(**asdict(settings))} {_values(loss)}")
        if parts != ["cross-entropy"]:
            texts[task] = "; ".join(parts)
    return texts


def _values(loss: dict[str, object]) -> str:
    values = loss["class_weights"] or loss["logit_offsets"]
    assert isinstance(values, dict)  # noqa: S101 - narrows for mypy: a weighting has either
    return listed(f"{label} {value:.3g}" for label, value in values.items())


def _stages(setting: Setting, task: str, spec: MultiStageSpec) -> str:
    """Return the branches of a multi-stage head, and whose head its first stage is."""
    branches = ", ".join(f"{name} ({plural(len(leaves), 'label')})" for name, leaves in spec.tree.items())
    if spec.first_stage is None:
        return f"{task}: {branches}"
    lender = spec.first_stage.task
    learns = "learns from both" if f"heads.{lender}" in setting.plan.first else "is frozen"
    return f"{task}: {branches}, decided by the head of {lender}, which {learns}"


def cut_texts(splits: Splits, limit: int) -> list[str]:
    """Return for each task of which more than 1 % of the texts are as long as is read of them, that they are cut.

    Args:
        splits: The token ids of each task's splits.
        limit: The most tokens of a text.
    """
    found = []
    for task, parts in splits.items():
        lengths = np.concatenate([each.table.lengths for each in parts.values()])
        cut = int((lengths >= limit).sum())
        if cut > len(lengths) / 100:
            found.append(
                f"{cut:,} of {len(lengths):,} texts of {task} ({cut / len(lengths):.0%}) have {limit} tokens or more: "
                "longer texts are truncated. backbone.max_length sets the limit, up to the positions that the encoder "
                "has."
            )
    return found


def kept_heads(setting: Setting) -> str | None:
    """Return which heads the saved model keeps without data here and without a change, if there are any."""
    names = [task for task in setting.start.heads if task in setting.start.kept and not setting.learns(task)]
    if not names:
        return None
    return f"{listed(names)}: no data here, frozen with all that is below; predictions and calibration are unchanged"


def _stale_heads(setting: Setting) -> list[str]:
    """Return what a reader must know of heads that are kept without data while what is below them has changed."""
    start, source = setting.start, setting.config.model.init_from
    moved = [task for task in start.heads if task in start.kept and setting.learns(task)]
    before = [task for task in start.heads if task in start.kept and task not in moved and start.heads[task].stale]
    found = []
    if moved:
        files = " ".join(f"data.tasks.{task}.path=<file>" for task in moved)
        found.append(
            f"The heads of {listed(moved)} are kept from {source} without data and become stale: what is below them is "
            "trained here, so their predictions change, nothing measures how, and their calibration is dropped. Give "
            f"their data too ({files}), or freeze the encoder (freeze=backbone)."
        )
    if before:
        found.append(
            f"The heads of {listed(before)} are stale already in {source}: the encoder was trained after them without "
            "their data."
        )
    return found


def warnings(setting: Setting) -> list[str]:
    """Return what a reader must know before trusting the figures."""
    config = setting.config
    found = [warning for task in setting.tasks.values() for warning in task.warnings]
    fresh = [
        task
        for task in setting.tasks
        if f"heads.{task}" not in setting.plan.first and task not in setting.start.trained_heads
    ]
    if fresh:
        found.append(
            f"The heads of {', '.join(fresh)} are untrained: they are frozen at random weights, so their figures say "
            "nothing about the task unless the encoder could adapt to them. Start from a trained model with "
            "model.init_from=<run folder>."
        )
    found += _stale_heads(setting)
    for task, spec in multi_stage_specs(setting.start.heads).items():
        if spec.first_stage is not None and spec.first_stage.task in fresh:
            found.append(f"The first stage of {task} is the head of {spec.first_stage.task}, which is untrained.")
    if config.loss.combine != "sum" and setting.plan.encoder_is_frozen and len(setting.combination.tasks) > 1:
        found.append(
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
        found.append(f"Trained on a part of the rows only ({names}).")
    return found
