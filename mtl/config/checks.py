"""`load`: check a composed configuration, its single values and then values that depend on each other.

The checks across values read typed values. They also run where single values are invalid, so that one message has all
problems; a check ends without a word where it meets such a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass, replace
from operator import attrgetter
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtl.base import schema
from mtl.base.errors import ConfigError, Problem, did_you_mean, listed
from mtl.base.label_tree import circle_problems, tree_problems
from mtl.base.schema import InvalidValueError, shown
from mtl.base.task_names import TASK_NAMES, as_task_name, is_task_name
from mtl.config.fields import Config, MultiStageConfig, TaskConfig
from mtl.config.loss import AGGREGATIONS
from mtl.config.short_forms import alone, section, settle_tasks, split_alike

HEAD_KEY = "heads.tasks.{}"
"""Where the head of a task is configured."""
VALIDATION_METRICS = ("accuracy", "macro_f1", "weighted_f1")
"""The figures of a task that are logged after each validation."""


def load(cfg: DictConfig | Mapping[str, Any]) -> Config:
    """Return what Hydra composed, or the same as plain mappings, typed; raise all problems together."""
    unresolved: list[Problem] = []
    values, unknown_task = alone(split_alike(_plain(cfg, (), unresolved)))
    settled = settle_tasks(values)
    config, invalid = schema.check(Config, settled.values)
    typed = config or schema.partial(Config, settled.values, invalid)
    across = [problem for check in _CHECKS for problem in _until_invalid(check(typed))]
    invalid = [_with_path_of_task(problem, settled.values) for problem in invalid]
    problems = list(unresolved)
    for group in (invalid, [*unknown_task, *settled.problems, *across]):
        places = [f"{problem.place}." for problem in problems]
        problems += [
            problem
            for problem in settled.as_written(group)
            if not any(place.startswith(f"{problem.place}.") for place in places)
        ]
    if problems or config is None:
        raise ConfigError(problems)
    return config


def _plain(node: Any, path: schema.Path, problems: list[Problem]) -> Any:
    """Return plain values; what is missing or cannot be resolved is left out, and added to the problems."""
    if not isinstance(node, DictConfig | ListConfig):
        return node
    values: dict[Any, Any] = {}
    parts: Iterable[Any] = range(len(node)) if isinstance(node, ListConfig) else node
    for part in parts:
        place = (*path, part)
        try:
            values[part] = _plain(node[part], place, problems)
        except OmegaConfBaseException as error:
            key = schema.key(place)
            found = "no value (???)" if OmegaConf.is_missing(node, part) else str(error).splitlines()[0]
            problems.append(Problem(key, found, "a value that can be resolved", f"give {key}=…"))
    return list(values.values()) if isinstance(node, ListConfig) else values


def _with_path_of_task(problem: Problem, values: Mapping[str, Any]) -> Problem:
    """Return the problem with its repair if a task is a file name instead of keys."""
    file = section(values, "data", "tasks").get(problem.place.removeprefix("data.tasks."))
    return replace(problem, repair=f"give {problem.place}.path={file}") if isinstance(file, str) else problem


def _until_invalid(problems: Iterator[Problem]) -> Iterator[Problem]:
    """Yield the problems that a check finds before it uses an invalid value."""
    with suppress(InvalidValueError):
        yield from problems


def _backbone(config: Config) -> Iterator[Problem]:
    backbone = config.backbone
    if backbone.path:
        return
    candidates = {"package": backbone.package, "random": backbone.random, "name": backbone.name}
    sources = {key: value for key, value in candidates.items() if value}
    if not sources:
        repair = "choose backbone=mpnet or give backbone.path=…"
        yield Problem("backbone", "no source of weights", "name, path or package", repair)
    if len(sources) > 1:
        found = " and ".join(f"{key}: {shown(value)}" for key, value in sources.items())
        repair = " or ".join(f"backbone.{key}={'false' if key == 'random' else 'null'}" for key in sources)
        yield Problem("backbone", found, "one source of weights; only path goes before another", repair)


def _data(config: Config) -> Iterator[Problem]:
    data = config.data
    if data.tasks == {}:
        repair = "data.tasks.classification.train=a.csv data.tasks.sentiment.path=b.jsonl"
        yield Problem("data.tasks", "no task", "at least one task with its file", f"give {repair}")
    with suppress(InvalidValueError):
        if len(data.split) != 3 or abs(sum(data.split) - 1) > 1e-6:
            yield Problem("data.split", str(data.split), "three shares (train, val, test) that sum to 1")
    for name, task in data.tasks.items():
        place = f"data.tasks.{name}"
        if not is_task_name(name):
            repair = f"call it {near}" if (near := as_task_name(name)) else ""
            yield Problem(place, f"the task name {name!r}", TASK_NAMES, repair)
        for check in (_files, _columns):
            yield from _until_invalid(check(task, place))
        with suppress(InvalidValueError):
            if task.labels is not None and (len(task.labels) < 2 or len(set(task.labels)) < len(task.labels)):
                yield Problem(f"{place}.labels", str(task.labels), "at least two labels, each once")


def _files(task: TaskConfig, place: str) -> Iterator[Problem]:
    if task.dataset is None:
        for key in ("config", "revision", "splits"):
            if (value := getattr(task, key)) is not None:
                yield Problem(f"{place}.{key}", shown(value), "null without a data set", f"give {place}.dataset=…")
    elif files := [key for key in ("train", "val", "test", "path") if getattr(task, key) is not None]:
        repair = f"give {place}.dataset=null, or it alone"
        yield Problem(place, f"dataset beside {' and '.join(files)}", "a data set, or files", repair)
        return
    if task.path is None and task.train is None and task.dataset is None:
        expected = "train= (with or without val= and test=), path= or dataset="
        yield Problem(place, "no file", expected, f"give {place}.path=…")
    given = [split for split in ("train", "val", "test") if getattr(task, split) is not None]
    if task.path is not None and given:
        expected = "one file to be split, or files for the splits"
        yield Problem(place, f"path beside {' and '.join(given)}", expected, f"give {place}.path=null, or path alone")


def _columns(task: TaskConfig, place: str) -> Iterator[Problem]:
    if task.text_column == task.label_column:
        yield Problem(f"{place}.label_column", repr(task.label_column), "another column than text_column")
    if len(set(task.slices)) < len(task.slices):
        yield Problem(f"{place}.slices", listed(task.slices), "each column once")
    for role, column in (("text_column", task.text_column), ("label_column", task.label_column)):
        if column in task.slices:
            found = f"{column!r}, the {role}"
            yield Problem(f"{place}.slices", found, "other columns of the files", f"take {column!r} out")


def _names_of_tasks(config: Config) -> Iterator[Problem]:
    """Yield names that are no tasks; ``freeze.heads`` is a list of them or ``all``, the other sections mappings."""
    tasks = list(config.data.tasks)
    for path in ("freeze.heads", "heads.tasks", "loss.tasks", "loss.weights") if tasks else ():
        with suppress(InvalidValueError):
            names = attrgetter(path)(config)
            for name in () if names == "all" else names:
                if name not in tasks:
                    place = path if isinstance(names, list) else f"{path}.{name}"
                    yield Problem(place, f"the task {name!r}", listed(tasks), did_you_mean(name, tasks))


def _hidden_layers(config: Config) -> Iterator[Problem]:
    heads = [("heads.default", config.heads.default)]
    for place, head in [*heads, *((HEAD_KEY.format(task), head) for task, head in config.heads.tasks.items())]:
        with suppress(InvalidValueError):
            what, key = ("stage", "stage_kind") if isinstance(head, MultiStageConfig) else ("head", "kind")
            if getattr(head, key) == "linear" and head.hidden is not None:
                expected = f"null: a linear {what} has no hidden layer"
                yield Problem(f"{place}.hidden", str(head.hidden), expected, f"give {place}.{key}=mlp")


def _stages(config: Config) -> Iterator[Problem]:
    """Yield the problems of multi-stage heads; their labels are checked once the data is read."""
    heads = {task: head for task, head in config.heads.tasks.items() if isinstance(head, MultiStageConfig)}
    lenders: dict[str, str] = {}
    for task, head in heads.items():
        place = HEAD_KEY.format(task)
        for check in (_tree, _stage_map):
            yield from _until_invalid(check(head, place))
        with suppress(InvalidValueError):
            if head.first_stage is not None and config.data.tasks:
                lenders[task] = lender = head.first_stage.task
                others = [name for name in config.data.tasks if name != task]
                if lender not in config.data.tasks:
                    expected, repair = listed(others) or "another task", did_you_mean(lender, others)
                    yield Problem(f"{place}.first_stage.task", f"the task {lender!r}", expected, repair)
    yield from circle_problems(HEAD_KEY, lenders)


def _tree(head: MultiStageConfig, place: str) -> Iterator[Problem]:
    if head.tree is None and head.separator is None:
        repair = f"give {place}.tree={{coarse class: [labels], …}} or {place}.separator=…"
        yield Problem(f"{place}.tree", "null, and separator: null", "the coarse classes with their labels", repair)
    if head.tree is not None and head.separator is not None:
        found = f"{shown(head.separator)} beside a tree"
        yield Problem(f"{place}.separator", found, "a tree or a separator", f"give {place}.separator=null")
    if head.tree is not None:
        yield from tree_problems(f"{place}.tree", head.tree)


def _stage_map(head: MultiStageConfig, place: str) -> Iterator[Problem]:
    if head.first_stage is None or head.tree is None:
        return
    branches = list(head.tree)
    for name in head.first_stage.map:
        if name not in branches:
            where = f"{place}.first_stage.map.{name}"
            yield Problem(where, f"the branch {name!r}", listed(branches), did_you_mean(name, branches))


def _combine(config: Config) -> Iterator[Problem]:
    if config.task is not None and len(config.data.tasks) == 1:
        return  # of one task every combination is its loss
    for check in (_weights, _one_task_in_a_step, _gradients_of_whole_steps):
        yield from _until_invalid(check(config))


def _weights(config: Config) -> Iterator[Problem]:
    combine, weights = config.loss.combine, config.loss.weights
    if combine != "weighted" and weights:
        given = ", ".join(f"{task}: {weight:g}" for task, weight in weights.items())
        found = f"{given} beside loss.combine={combine}, where they mean nothing"
        yield Problem("loss.weights", found, "loss.combine=weighted", "give loss.combine=weighted")


def _one_task_in_a_step(config: Config) -> Iterator[Problem]:
    combine, mode = config.loss.combine, config.data.interleave
    if combine in (*AGGREGATIONS, "famo") and mode != "paired":
        found = f"{mode} beside loss.combine={combine}: a step has rows of one task, and nothing to combine"
        yield Problem("data.interleave", found, "paired", "give data.interleave=paired, or loss.combine=sum")


def _gradients_of_whole_steps(config: Config) -> Iterator[Problem]:
    """Yield what combining the gradients of whole steps excludes."""
    combine, trainer = config.loss.combine, config.trainer
    if combine not in AGGREGATIONS:
        return
    with suppress(InvalidValueError):
        if (batches := trainer.accumulate_grad_batches) is not None and batches > 1:
            found = f"{batches} beside loss.combine={combine}, which combines the gradients of whole steps"
            repair = "give trainer.accumulate_grad_batches=1 and a larger data.batch_size"
            yield Problem("trainer.accumulate_grad_batches", found, "1", repair)
    with suppress(InvalidValueError):
        if trainer.precision == "16-mixed":
            found = f"16-mixed beside loss.combine={combine}, whose products of gradients overflow there"
            yield Problem("trainer.precision", found, "auto, 32-true or bf16-mixed", "give trainer.precision=auto")
    with suppress(InvalidValueError):
        if config.freeze.backbone == "all":
            found = f"all beside loss.combine={combine}: nothing that the tasks share learns, so there are no gradients"
            expected = "an encoder that learns, or loss.combine=sum"
            yield Problem("freeze.backbone", f"{found} to combine", expected, "give loss.combine=sum")


def _freeze(config: Config) -> Iterator[Problem]:
    needed = {
        "train_layers": (("lower", "lora"), "how many of the top layers train, a number or a share", "lower_layers"),
        "gradual": (("gradual",), "unit, start, every, layers, stages and warmup", "gradual"),
        "lora": (("lora",), "r, alpha, dropout and targets", "lora"),
    }
    for key, (users, expected, choice) in needed.items():
        with suppress(InvalidValueError):
            backbone, value = config.freeze.backbone, getattr(config.freeze, key)
            if value is None and backbone == users[0]:
                yield Problem(f"freeze.{key}", "null", expected, f"choose freeze={choice}")
            if value is not None and backbone not in users:
                plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
                found = f"{plain} beside freeze.backbone={backbone}, where it means nothing"
                meant = " or ".join(f"freeze.backbone={user}" for user in users)
                yield Problem(f"freeze.{key}", found, f"null, or {meant}", f"choose freeze={choice}")
    if config.freeze.gradual is not None and config.freeze.gradual.stages == {}:
        yield Problem("freeze.gradual.stages", "no stage", "null, or layers to unfreeze by step: {100: 2, 300: all}")


def _weight_decay(config: Config) -> Iterator[Problem]:
    """Refuse a weight decay that inverts weights: AdamW multiplies them by ``1 - rate * weight_decay`` in a step."""
    used = ["heads", "upper", "lower", "top", "backbone", *(["lora"] if config.freeze.backbone == "lora" else [])]
    rates = {name: rate for name in used if (rate := getattr(config.learning_rates, name, None)) is not None}
    name, decay = max(rates, key=lambda name: rates[name]), config.optimizer.weight_decay
    if rates[name] * decay >= 1:
        found = f"{decay:g}, which times learning_rates.{name}={rates[name]:g} is {rates[name] * decay:g}"
        expected = "a decay that times the highest rate is below 1: AdamW multiplies weights by what is left of 1"
        yield Problem("optimizer.weight_decay", found, expected, "give optimizer.weight_decay=0.01")


def _end_of_training(config: Config) -> Iterator[Problem]:
    trainer = config.trainer
    if not (trainer.max_epochs or trainer.max_steps or trainer.fast_dev_run):
        yield Problem("trainer.max_epochs", "null", "an end: max_epochs or max_steps", "give trainer.max_epochs=3")


def _limits(config: Config) -> Iterator[Problem]:
    pairs = [("min_epochs", "max_epochs"), ("min_steps", "max_steps"), ("check_val_every_n_epoch", "max_epochs")]
    for least, most in pairs:
        with suppress(InvalidValueError):
            low, high = getattr(config.trainer, least), getattr(config.trainer, most)
            if low is not None and high is not None and low > high:
                yield Problem(f"trainer.{least}", str(low), f"at most trainer.{most}, which is {high}")


def _strategy(config: Config) -> Iterator[Problem]:
    if config.trainer.strategy not in ("auto", "ddp", "fsdp", None):
        expected = "ddp, auto, which is the same where trainer.devices is more than one, or fsdp"
        yield Problem("trainer.strategy", shown(config.trainer.strategy), expected, "give trainer.strategy=ddp")
    if config.trainer.strategy == "fsdp" and config.trainer.precision == "16-mixed":
        yield Problem("trainer.precision", "16-mixed beside trainer.strategy=fsdp", "bf16-mixed, 32-true or auto")


def _devices(config: Config) -> Iterator[Problem]:
    devices, combine = config.trainer.devices, config.loss.combine
    one = devices == 1 or (isinstance(devices, list) and len(devices) == 1)
    if combine in AGGREGATIONS and not (one and config.trainer.num_nodes in (None, 1)):
        found = f"{shown(devices)} beside loss.combine={combine}, which needs the gradients of all rows at once"
        repair = "give trainer.devices=1, or loss.combine=sum, uncertainty, dwa or famo"
        yield Problem("trainer.devices", found, "one device", repair)


def _early_stopping(config: Config) -> Iterator[Problem]:
    limit = config.trainer.limit_val_batches
    if limit == 0 and config.callbacks.early_stopping is not None:
        found = f"{limit}: nothing is validated, and callbacks.early_stopping waits for it"
        yield Problem("trainer.limit_val_batches", found, "a number from 1 on, or callbacks=default")


def _monitor(config: Config) -> Iterator[Problem]:
    monitor, tasks = config.callbacks.monitor, list(config.data.tasks)
    allowed = [f"val/{figure}" for figure in VALIDATION_METRICS]
    allowed += [f"val/{task}/{figure}" for task in tasks for figure in VALIDATION_METRICS]
    if tasks and monitor not in allowed:
        yield Problem("callbacks.monitor", repr(monitor), listed(allowed, most=40), did_you_mean(monitor, allowed))


def _retention(config: Config) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for name in ("first_column", "second_column", "score_column"):
        column = getattr(config.retention, name)
        if column in seen:
            yield Problem(f"retention.{name}", repr(column), f"another column than {seen[column]}")
        seen.setdefault(column, name)


_CHECKS: tuple[Callable[[Config], Iterator[Problem]], ...] = (
    _backbone,
    _data,
    _names_of_tasks,
    _hidden_layers,
    _stages,
    _combine,
    _freeze,
    _weight_decay,
    _end_of_training,
    _limits,
    _strategy,
    _devices,
    _early_stopping,
    _monitor,
    _retention,
)
"""In the order in which a message tells their problems."""
