"""Checks of the multi-stage heads of a configuration that need no labels, on plain values that may be wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mtl.base.errors import Problem, did_you_mean, listed
from mtl.base.label_tree import circle_problems, tree_problems
from mtl.base.schema import shown

PLACE = "heads.tasks.{}"
"""Where the head of a task is configured."""


def stage_checks(values: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with the multi-stage heads; the labels come into play when the data is read."""
    tasks = list(_mapping(values, "data", "tasks"))
    heads = {
        task: head
        for task, head in _mapping(values, "heads", "tasks").items()
        if isinstance(head, Mapping) and head.get("kind") == "multi_stage"
    }
    lenders: dict[str, str] = {}
    for task, head in heads.items():
        place = PLACE.format(task)
        yield from _tree(head, place)
        if head.get("hidden") is not None and head.get("stage_kind", "linear") == "linear":
            repair = f"give {place}.stage_kind=mlp"
            yield Problem(f"{place}.hidden", shown(head["hidden"]), "null: a linear stage has no hidden layer", repair)
        lender = _mapping(head, "first_stage").get("task")
        if isinstance(lender, str) and tasks:
            lenders[task] = lender
            others = [each for each in tasks if each != task]
            if lender not in tasks:
                expected, hint = listed(others) or "another task", did_you_mean(lender, others)
                yield Problem(f"{place}.first_stage.task", f"the task {lender!r}", expected, hint)
    yield from circle_problems(PLACE, lenders)


def _tree(head: Mapping[str, Any], place: str) -> Iterator[Problem]:
    tree, separator = head.get("tree"), head.get("separator")
    if tree is None and separator is None:
        repair = f"give {place}.tree={{coarse class: [labels], …}} or {place}.separator=…"
        yield Problem(f"{place}.tree", "null, and separator: null", "the coarse classes with their labels", repair)
    if tree is not None and separator is not None:
        found = f"{shown(separator)} beside a tree"
        yield Problem(f"{place}.separator", found, "a tree or a separator", f"give {place}.separator=null")
    if not isinstance(tree, Mapping) or not all(isinstance(leaves, list) for leaves in tree.values()):
        return
    branches = {str(name): [str(leaf) for leaf in leaves] for name, leaves in tree.items()}
    yield from tree_problems(f"{place}.tree", branches)
    names = _mapping(head, "first_stage", "map")
    for name in names:
        if str(name) not in branches:
            where = f"{place}.first_stage.map.{name}"
            yield Problem(where, f"the branch {str(name)!r}", listed(branches), did_you_mean(str(name), list(branches)))


def _mapping(values: Any, *path: str) -> Mapping[str, Any]:
    """Return what stands at ``path``, nothing if it has no keys."""
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values if isinstance(values, Mapping) else {}
