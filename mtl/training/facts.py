"""Facts of a run for its report and its metrics: tasks, heads, losses, precision."""

from __future__ import annotations

from dataclasses import asdict

from mtl.base.errors import listed
from mtl.data.problems import plural
from mtl.model.head_specs import MultiStageSpec
from mtl.model.saved import HeadSpec, multi_stage_specs
from mtl.training.losses import LOSSES, WEIGHTINGS, class_offsets, class_weights
from mtl.training.plan import RunPlan


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
