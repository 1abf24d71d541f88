"""What a report says of a run beside its figures: parameter groups, facts, warnings."""

from __future__ import annotations

from mtl.evaluation.summary import GroupRow
from mtl.setting import Setting


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
            state=_state(group.first_epoch),
        )
        for group in setting.groups
    ]
    network = setting.start.network
    frozen = [layer for layer in network.layer_names if layer not in setting.plan.first_epoch]
    tensors = [parameter for layer in frozen for _, parameter in network.layer_parameters(layer)]
    if frozen:
        count = sum(parameter.numel() for parameter in tensors)
        rows.append(GroupRow("frozen", frozen, None, None, count, len(tensors), state="frozen"))
    return rows


def _state(first_epoch: tuple[int, int]) -> str:
    first, last = (epoch + 1 for epoch in first_epoch)
    if last == 1:
        return "trained"
    return f"trained from epoch {first}" if first == last else f"trained from epochs {first} to {last} on"


def facts(setting: Setting) -> dict[str, str]:
    """Return short facts by name."""
    config = setting.config
    return {
        "tasks": ", ".join(f"{name} ({len(task.labels)} classes)" for name, task in setting.tasks.items()),
        "training rows": ", ".join(f"{name} {len(task.train):,}" for name, task in setting.tasks.items()),
        "precision": f"{setting.precision} on {setting.device.type}",
        "seed": str(config.seed),
    }


def warnings(setting: Setting) -> list[str]:
    """Return what a reader must know before trusting the figures."""
    config = setting.config
    found = [warning for task in setting.tasks.values() for warning in task.warnings]
    fresh = [
        task
        for task in setting.tasks
        if f"heads.{task}" not in setting.plan.first_epoch and task not in setting.start.trained_heads
    ]
    if fresh:
        found.append(
            f"The heads of {', '.join(fresh)} are untrained: they are frozen at random weights, so their figures say "
            "nothing about the task unless the encoder could adapt to them. Start from a trained model with "
            "model.init_from=<run folder>."
        )
    if config.trainer.fast_dev_run or config.trainer.limit_train_batches:
        found.append("Trained on a part of the rows only (fast_dev_run or limit_train_batches).")
    return found
