"""Training one task alone: a configuration of several tasks becomes that of one, without what the others have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtl.base.errors import Problem, did_you_mean, listed

TO_BE_GIVEN = "<name>"
"""What stands for the task in ``experiment=single_task``; no task can be called so."""
_PLACES = (("data", "tasks"), ("heads",), ("heads", "tasks"), ("loss",), ("loss", "tasks"), ("loss", "weights"))


def alone(values: Any) -> tuple[Any, list[Problem]]:
    """Return a configuration without the tasks beside the one that ``task`` names, and what is wrong with that.

    What is configured for the others leaves with them: files, heads, losses, weights. So a sweep over ``task`` may keep
    all other arguments. How losses are combined and steps interleaved stays, and means nothing for one task.

    Args:
        values: A composed configuration as plain values; it is not changed, and may be wrong anywhere.
    """
    task = values.get("task") if isinstance(values, Mapping) else None
    tasks = _tasks(values)
    if task is None or not tasks:
        return values, []
    if task not in tasks:
        found = "nothing" if task == TO_BE_GIVEN else repr(task)
        repair = did_you_mean(str(task), tasks) or f"give task={tasks[0]}"
        return values, [Problem("task", found, listed(tasks), repair)]
    return reduced(values, task), []


def reduced(values: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return a configuration of several tasks as it is for one of them.

    Args:
        values: Plain values, in the short form of `mtl.config.task_settings` or the schema's.
        task: One of its tasks.
    """
    others = set(_tasks(values)) - {task}
    found = {**values, "task": task}
    for path in _PLACES:
        found = _without(found, path, others)
    freeze = found.get("freeze")
    if isinstance(freeze, Mapping) and isinstance(freeze.get("heads"), list):
        found["freeze"] = {**freeze, "heads": [each for each in freeze["heads"] if each not in others]}
    return found


def _tasks(values: Any) -> list[str]:
    data = values.get("data") if isinstance(values, Mapping) else None
    tasks = data.get("tasks") if isinstance(data, Mapping) else None
    return [str(name) for name in tasks] if isinstance(tasks, Mapping) else []


def _without(values: Mapping[str, Any], path: tuple[str, ...], keys: set[str]) -> dict[str, Any]:
    """Return values without some keys of the mapping at a path; as they are where there is none."""
    first, *rest = path
    inside = values.get(first)
    if not isinstance(inside, Mapping):
        return dict(values)
    if rest:
        return {**values, first: _without(inside, tuple(rest), keys)}
    return {**values, first: {key: each for key, each in inside.items() if key not in keys}}
