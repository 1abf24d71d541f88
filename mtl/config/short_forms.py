"""The short forms of a configuration, turned into the form of the schema: settings of single tasks, one task alone.

In the groups `SECTIONS` each task may have settings of its own, written below the task's name,
``loss.sentiment.weighting=balanced``, or as one word, which is the kind, ``heads.sentiment=mlp``. The schema has them
as ``loss.tasks.sentiment`` and ``heads.tasks.sentiment``, complete: missing keys come from the section's ``default``.
Both forms are accepted. With ``task=NAME`` a configuration of several tasks becomes that of one.

The functions take a composed configuration as plain values, which may be wrong anywhere, and do not change it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from typing import Any

from mtl.base.errors import Problem, did_you_mean, listed
from mtl.base.files import expanded
from mtl.config.loss import LossConfig

TO_BE_GIVEN = "<name>"
"""What stands for the task in ``experiment=single_task``; no task can be called so."""
_PLACES = (("data", "tasks"), ("heads",), ("heads", "tasks"), ("loss",), ("loss", "tasks"), ("loss", "weights"))


def section(values: Any, *path: str) -> Mapping[str, Any]:
    """Return the keys with values at ``path``; empty if there are none."""
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values if isinstance(values, Mapping) else {}


def alone(values: Any) -> tuple[Any, list[Problem]]:
    """Return a configuration reduced to the task that ``task`` names, and the problem if there is no such task.

    What is configured for other tasks is removed with them: files, heads, losses, weights. So a sweep over ``task`` may
    keep all other arguments. How losses are combined and steps interleaved stays, and means nothing for one task.
    """
    task = section(values).get("task")
    tasks = [str(name) for name in section(values, "data", "tasks")]
    if task is None or not tasks:
        return values, []
    if task not in tasks:
        found = "nothing" if task == TO_BE_GIVEN else repr(task)
        repair = did_you_mean(str(task), tasks) or f"give task={tasks[0]}"
        return values, [Problem("task", found, listed(tasks), repair)]
    return reduced(values, task), []


def reduced(values: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return a configuration of several tasks, in the short form or the schema's, as it is for one of them."""
    others = {str(name) for name in section(values, "data", "tasks")} - {task}
    result = {**deepcopy(dict(values)), "task": task}
    for path in _PLACES:
        inside: Any = section(result, *path)
        for name in others & inside.keys():
            del inside[name]
    freeze: Any = section(result, "freeze")
    if isinstance(freeze.get("heads"), list):
        freeze["heads"] = [name for name in freeze["heads"] if name not in others]
    return result


SECTIONS = {
    "heads": ("default", "tasks"),
    "loss": tuple(key.name for key in fields(LossConfig)),
}
"""The groups with settings of single tasks, and the keys in them that are no tasks."""
_OF_ONE_KIND = frozenset({"hidden"})
"""Keys that mean nothing to another kind: a task of another kind than the default does not take them from it."""


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """A configuration in the schema's form.

    Attributes:
        values: The configuration as plain values.
        problems: What stands in a section and is neither a key of it nor a task.
        written: For each place that was moved, how the user wrote it.
        inherited: The places that were filled from the section's default.
    """

    values: dict[str, Any]
    problems: list[Problem] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)
    inherited: set[str] = field(default_factory=set)

    def as_written(self, problems: Sequence[Problem]) -> list[Problem]:
        """Return the problems with the user's own keys, without those that the default has already."""
        return [self._as_written(problem) for problem in problems if problem.place not in self.inherited]

    def _as_written(self, problem: Problem) -> Problem:
        for place in sorted(self.written, key=len, reverse=True):
            if problem.place == place or problem.place.startswith(f"{place}."):
                own = self.written[place]
                shown = own + problem.place.removeprefix(place)
                return replace(problem, place=shown, repair=problem.repair.replace(place, own))
        return problem


def takes_a_word(key: str) -> bool:
    """Tell whether one word may stand at a key of the command line, for the kind: ``heads.sentiment=mlp``."""
    group, _, name = key.partition(".")
    return group in SECTIONS and name.isidentifier() and (name == "default" or name not in SECTIONS[group])


def task_of(key: str) -> str | None:
    """Return ``heads.sentiment`` for a key below it in the short form; nothing for other keys."""
    group, name, *below = [*key.split("."), "", ""]
    return f"{group}.{name}" if below[0] and takes_a_word(f"{group}.{name}") else None


def split_alike(values: Any) -> Any:
    """Return a configuration in which each task names the label columns of all tasks that are split off its file.

    So a task is split the same whether it is trained with those tasks or alone. Tasks belong together if their file,
    their text column and the splits that they have files for are the same. What a task gives itself stays.
    """
    tasks = section(values, "data", "tasks")
    columns: dict[Any, set[str]] = {}
    for task in tasks.values():
        if isinstance(task, Mapping) and task.get("split_with") != []:
            columns.setdefault(_split_of(task), set()).add(str(task.get("label_column", "label")))
    together = {
        name: {**task, "split_with": sorted(columns[_split_of(task)])}
        for name, task in tasks.items()
        if isinstance(task, Mapping) and task.get("split_with") is None and len(columns[_split_of(task)]) > 1
    }
    return {**values, "data": {**values["data"], "tasks": {**tasks, **together}}} if together else values


def _split_of(task: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what tasks that are split alike have in common."""
    file = next((task[key] for key in ("path", "train", "dataset") if task.get(key) is not None), None)
    own = (task.get("text_column", "text"), *map(task.get, ("val", "test", "config", "revision", "splits")))
    return (os.path.realpath(expanded(str(file))), *map(str, own))


def settle_tasks(values: Mapping[str, Any]) -> TaskSettings:
    """Turn the short form into the schema's."""
    settled = TaskSettings(dict(values))
    tasks = [str(name) for name in section(values, "data", "tasks")]
    for group, keys in SECTIONS.items():
        if isinstance(values.get(group), Mapping):
            settled.values[group] = _settle(group, keys, values[group], tasks, settled)
    return settled


def _settle(
    group: str, keys: Sequence[str], values: Mapping[str, Any], names: Sequence[str], settled: TaskSettings
) -> dict[str, Any]:
    kept = {key: value for key, value in values.items() if key in keys}
    own = kept.get("tasks", {})
    if not isinstance(own, Mapping):
        return dict(values)
    tasks: dict[str, Any] = {str(name): _spelled_out(value) for name, value in own.items()}
    default = kept.get("default")
    if isinstance(default, str):
        kept["default"] = default = _spelled_out(default)
    for name, value in values.items():
        if name in keys:
            continue
        if names and name not in names:
            settled.problems.append(_unknown(group, str(name), keys, names, default))
            continue
        place = f"{group}.tasks.{name}"
        settled.written[place] = f"{group}.{name}"
        if isinstance(value, str):
            settled.written[f"{place}.kind"] = f"{group}.{name}"
        tasks[name] = _joined(tasks.get(name), _spelled_out(value), place, settled)
    kept["tasks"] = {
        name: _filled(task, default, f"{group}.tasks.{name}", settled.inherited) for name, task in tasks.items()
    }
    return kept


def _spelled_out(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


def _joined(known: Any, value: Any, place: str, settled: TaskSettings) -> Any:
    """Return the settings of a task that has both forms; the same key in both is refused, neither is the later one."""
    if not isinstance(known, Mapping) or not isinstance(value, Mapping):
        return value
    own = settled.written[place]
    for key in known.keys() & value.keys():
        if known[key] != value[key]:
            found = f"{value[key]} here and {known[key]} at {place}.{key}"
            repair = f"leave {own}.{key} out, or {place}.{key}"
            settled.problems.append(Problem(f"{own}.{key}", found, "one value", repair))
    return {**known, **value}


def _filled(task: Any, default: Any, place: str, inherited: set[str]) -> Any:
    """Return a task's settings with those of the default that it does not give itself."""
    if not isinstance(task, Mapping) or not isinstance(default, Mapping):
        return task
    another = "kind" in task and task["kind"] != default.get("kind")
    taken = {key: value for key, value in default.items() if key not in task and not (another and key in _OF_ONE_KIND)}
    inherited |= {f"{place}.{key}" for key in taken}
    return {**taken, **task}


def _unknown(group: str, name: str, keys: Sequence[str], tasks: Sequence[str], default: Any) -> Problem:
    candidates = {key: f"{group}.default.{key}" for key in section(default)}
    candidates |= {key: f"{group}.{key}" for key in (*keys, *tasks)}
    near = did_you_mean(name, list(candidates))
    word = near.removeprefix("did you mean ").removesuffix("?")
    repair = f"did you mean {candidates[word]}?" if near else ""
    expected = f"{listed(keys)}, or a task: {listed(tasks)}"
    return Problem(f"{group}.{name}", "an unknown key", expected, repair)
