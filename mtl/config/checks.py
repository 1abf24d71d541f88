"""Checks across keys of a configuration, on plain values that may be wrong.

They run beside the checks of the single values, so that one message has all problems; what they meet may be wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mtl.base.errors import Problem, did_you_mean, listed
from mtl.base.label_tree import circle_problems, tree_problems
from mtl.base.schema import shown
from mtl.base.task_names import TASK_NAMES, as_task_name, is_task_name
from mtl.config.combine import AGGREGATIONS, combine_checks

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


SHOWN = ("accuracy", "macro_f1", "weighted_f1")
"""The figures of a task that are logged after each validation."""


def cross_checks(values: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong across the keys of a configuration."""
    checks = (
        _backbone,
        _tasks,
        _names_of_tasks,
        _heads,
        stage_checks,
        combine_checks,
        _freeze,
        _decay,
        _epochs,
        _processes,
        _validation,
        _monitor,
        _retention,
    )
    return [problem for check in checks for problem in check(values)]


def _at(values: Any, *path: str) -> Any:
    """Return what stands at ``path``, ``None`` if there is nothing."""
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def _keys(values: Any, *path: str) -> list[str]:
    found = _at(values, *path)
    return [str(key) for key in found] if isinstance(found, Mapping) else []


def _backbone(values: Mapping[str, Any]) -> Iterator[Problem]:
    backbone = _at(values, "backbone")
    if not isinstance(backbone, Mapping) or backbone.get("path"):
        return
    given = [key for key in ("package", "random", "name") if backbone.get(key)]
    if not given:
        repair = "choose backbone=mpnet or give backbone.path=…"
        yield Problem("backbone", "no source of weights", "name, path or package", repair)
    if len(given) > 1:
        found = " and ".join(f"{key}: {shown(backbone[key])}" for key in given)
        repair = " or ".join(f"backbone.{key}={'false' if key == 'random' else 'null'}" for key in given)
        yield Problem("backbone", found, "one source of weights; only path goes before another", repair)


def _tasks(values: Mapping[str, Any]) -> Iterator[Problem]:
    tasks = _at(values, "data", "tasks")
    if tasks == {}:
        repair = "data.tasks.classification.train=a.csv data.tasks.sentiment.path=b.jsonl"
        yield Problem("data.tasks", "no task", "at least one task with its file", f"give {repair}")
    split = _at(values, "data", "split")
    shares = isinstance(split, list) and all(isinstance(share, int | float) for share in split)
    if shares and (len(split) != 3 or abs(sum(split) - 1) > 1e-6):
        yield Problem("data.split", str(split), "three shares (train, val, test) that sum to 1")
    for name in _keys(tasks):
        if not is_task_name(name):
            repair = f"call it {near}" if (near := as_task_name(name)) else ""
            yield Problem(f"data.tasks.{name}", f"the task name {name!r}", TASK_NAMES, repair)
        if isinstance(tasks[name], Mapping):
            yield from _task(tasks[name], f"data.tasks.{name}")


def _task(task: Mapping[str, Any], place: str) -> Iterator[Problem]:
    dataset = task.get("dataset")
    files = [key for key in ("train", "val", "test", "path") if task.get(key) is not None]
    if dataset is not None and files:
        expected = "a data set, or files"
        yield Problem(
            place, f"dataset beside {' and '.join(files)}", expected, f"give {place}.dataset=null, or it alone"
        )
        return
    for key in ("config", "revision", "splits"):
        if dataset is None and task.get(key) is not None:
            yield Problem(f"{place}.{key}", shown(task[key]), "null without a data set", f"give {place}.dataset=…")
    if dataset is None and task.get("path") is None and task.get("train") is None:
        expected = "train= (with or without val= and test=), path= or dataset="
        yield Problem(place, "no file", expected, f"give {place}.path=…")
    beside = [split for split in ("train", "val", "test") if task.get(split) is not None]
    if task.get("path") is not None and beside:
        expected = "one file to be split, or files for the splits"
        yield Problem(place, f"path beside {' and '.join(beside)}", expected, f"give {place}.path=null, or path alone")
    text, label = task.get("text_column", "text"), task.get("label_column", "label")
    if text == label:
        yield Problem(f"{place}.label_column", repr(label), "another column than text_column")
    yield from _slices(task.get("slices"), {"text_column": text, "label_column": label}, f"{place}.slices")
    labels = task.get("labels")
    if isinstance(labels, list) and (len(labels) < 2 or len(set(map(str, labels))) < len(labels)):
        yield Problem(f"{place}.labels", str(labels), "at least two labels, each once")


def _slices(columns: Any, used: Mapping[str, Any], place: str) -> Iterator[Problem]:
    if not isinstance(columns, list):
        return
    names = list(map(str, columns))
    if len(set(names)) < len(names):
        yield Problem(place, listed(names), "each column once")
    for role, column in used.items():
        if str(column) in names:
            yield Problem(place, f"{column!r}, the {role}", "other columns of the files", f"take {column!r} out")


def _names_of_tasks(values: Mapping[str, Any]) -> Iterator[Problem]:
    tasks = _keys(values, "data", "tasks")
    frozen = _at(values, "freeze", "heads")
    used = [("freeze.heads", str(name)) for name in frozen] if isinstance(frozen, list) else []
    used += [(f"heads.tasks.{name}", name) for name in _keys(values, "heads", "tasks")]
    used += [(f"loss.tasks.{name}", name) for name in _keys(values, "loss", "tasks")]
    used += [(f"loss.weights.{name}", name) for name in _keys(values, "loss", "weights")]
    for place, name in used:
        if tasks and name not in tasks:
            yield Problem(place, f"the task {name!r}", listed(tasks), did_you_mean(name, tasks))


def _heads(values: Mapping[str, Any]) -> Iterator[Problem]:
    heads = {"heads.default": _at(values, "heads", "default")}
    heads |= {f"heads.tasks.{name}": _at(values, "heads", "tasks", name) for name in _keys(values, "heads", "tasks")}
    for place, head in heads.items():
        if _at(head, "kind") == "linear" and _at(head, "hidden") is not None:
            repair = f"give {place}.kind=mlp"
            yield Problem(f"{place}.hidden", str(head["hidden"]), "null: a linear head has no hidden layer", repair)


def _freeze(values: Mapping[str, Any]) -> Iterator[Problem]:
    freeze = _at(values, "freeze")
    backbone = _at(freeze, "backbone")
    needed = {
        "lower": ("train_layers", "how many of the top layers train, a number or a share", "lower_layers"),
        "gradual": ("gradual", "unit, start, every, layers, stages and warmup", "gradual"),
        "lora": ("lora", "r, alpha, dropout and targets", "lora"),
    }
    for kind, (key, expected, choice) in needed.items():
        users = (kind, "lora") if key == "train_layers" else (kind,)
        value = _at(freeze, key)
        if backbone == kind and value is None:
            yield Problem(f"freeze.{key}", "null", expected, f"choose freeze={choice}")
        if value is not None and backbone in ("none", "all", *needed) and backbone not in users:
            found = f"{value} beside freeze.backbone={backbone}, where it means nothing"
            meant = " or ".join(f"freeze.backbone={user}" for user in users)
            yield Problem(f"freeze.{key}", found, f"null, or {meant}", f"choose freeze={choice}")
    if _at(freeze, "gradual", "stages") == {}:
        yield Problem("freeze.gradual.stages", "no stage", "null, or when how many layers thaw: {100: 2, 300: all}")


def _decay(values: Mapping[str, Any]) -> Iterator[Problem]:
    """Refuse a weight decay that turns weights over: AdamW multiplies them by ``1 - rate * weight_decay`` in a step."""
    decay, rates = _at(values, "optimizer", "weight_decay"), _at(values, "learning_rates")
    used = ["heads", "upper", "lower", "top", "backbone"]
    used += ["lora"] if _at(values, "freeze", "backbone") == "lora" else []
    known = {name: rate for name in used if isinstance(rate := _at(rates, name), int | float)}
    if not known or not isinstance(decay, int | float):
        return
    name = max(known, key=lambda each: known[each])
    if known[name] * decay >= 1:
        found = f"{decay:g}, which times learning_rates.{name}={known[name]:g} is {known[name] * decay:g}"
        expected = "a decay that times the highest rate is below 1: AdamW multiplies weights by what is left of 1"
        yield Problem("optimizer.weight_decay", found, expected, "give optimizer.weight_decay=0.01")


def _epochs(values: Mapping[str, Any]) -> Iterator[Problem]:
    trainer = _at(values, "trainer")
    if not isinstance(trainer, Mapping):
        return
    if all(trainer.get(key) in (None, False) for key in ("max_epochs", "max_steps", "fast_dev_run")):
        yield Problem("trainer.max_epochs", "null", "an end: max_epochs or max_steps", "give trainer.max_epochs=3")
    for least, most in (
        ("min_epochs", "max_epochs"),
        ("min_steps", "max_steps"),
        ("check_val_every_n_epoch", "max_epochs"),
    ):
        low, high = trainer.get(least), trainer.get(most)
        if isinstance(low, int) and isinstance(high, int) and low > high:
            yield Problem(f"trainer.{least}", str(low), f"at most trainer.{most}, which is {high}")


def _processes(values: Mapping[str, Any]) -> Iterator[Problem]:
    """Refuse other ways to train in parallel than processes on one machine that sum their gradients."""
    strategy, nodes = _at(values, "trainer", "strategy"), _at(values, "trainer", "num_nodes")
    if strategy not in ("auto", "ddp", None):
        expected = "ddp, or auto, which is the same where trainer.devices is more than one"
        yield Problem("trainer.strategy", shown(strategy), expected, "give trainer.strategy=ddp")
    if nodes not in (1, None):
        expected = "1: processes of one machine train together, those of several do not"
        yield Problem("trainer.num_nodes", shown(nodes), expected, "give trainer.num_nodes=1")
    devices, combine = _at(values, "trainer", "devices"), _at(values, "loss", "combine")
    several = devices not in (1, None) and not (isinstance(devices, list) and len(devices) == 1)
    if several and combine in AGGREGATIONS:
        found = f"{shown(devices)} beside loss.combine={combine}, which needs the gradients of all rows at once"
        repair = "give trainer.devices=1, or loss.combine=sum, uncertainty, dwa or famo"
        yield Problem("trainer.devices", found, "one device", repair)


def _validation(values: Mapping[str, Any]) -> Iterator[Problem]:
    limit = _at(values, "trainer", "limit_val_batches")
    if limit == 0 and limit is not False and _at(values, "callbacks", "early_stopping") is not None:
        found = f"{limit}: nothing is validated, and callbacks.early_stopping waits for it"
        yield Problem("trainer.limit_val_batches", found, "a number from 1 on, or callbacks=default")


def _monitor(values: Mapping[str, Any]) -> Iterator[Problem]:
    monitor, tasks = _at(values, "callbacks", "monitor"), _keys(values, "data", "tasks")
    allowed = [f"val/{figure}" for figure in SHOWN]
    allowed += [f"val/{task}/{figure}" for task in tasks for figure in SHOWN]
    if tasks and isinstance(monitor, str) and monitor not in allowed:
        yield Problem("callbacks.monitor", repr(monitor), listed(allowed, most=40), did_you_mean(monitor, allowed))


def _retention(values: Mapping[str, Any]) -> Iterator[Problem]:
    names = ("first_column", "second_column", "score_column")
    columns = [_at(values, "retention", name) for name in names]
    for at, (name, column) in enumerate(zip(names, columns, strict=True)):
        if column is not None and column in columns[:at]:
            yield Problem(f"retention.{name}", repr(column), f"another column than {names[columns.index(column)]}")
