"""The inputs of a run, checked before anything expensive starts: data files and weights, all problems together."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from mtl.base.errors import ConfigError, MtlError, Problem
from mtl.base.files import expanded
from mtl.base.run_folder import find_model
from mtl.config.fields import Config, DataConfig, RetentionConfig, TaskConfig
from mtl.data.named_datasets import DatasetSpec
from mtl.data.pairs import Pairs, read_pairs
from mtl.data.tasks import TaskData, TaskSpec, load_tasks
from mtl.model.sources import BackboneSpec, locate
from mtl.training.build import check_stages, make_combination

BUNDLED = "bundled:"
"""Prefix of files that are part of the package."""
_BUNDLED_FOLDER = Path(__file__).parents[1] / "data" / "bundled"
_FILES = ("train", "val", "test", "path")
"""The keys of a task that name files."""

TRACKERS = ("wandb", "mlflow", "trackio")
"""The loggers that collect runs, each a Python package and an extra of the same name."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run reads."""

    tasks: dict[str, TaskData]
    weights: Path  # the encoder's folder in the hub's layout, or the saved model to start from
    pairs: Pairs | None = None  # sentence pairs for the encoder's retention


def load_inputs(config: Config, *, to_train: bool = True) -> Inputs:
    """Find the weights and read the data; ``to_train`` also checks the packages that only training needs.

    Raises:
        MtlError: All problems with data files, heads, weights and missing packages together.
    """
    problems: list[MtlError] = []
    weights = _attempt(lambda: _weights(config), problems)
    tasks = _attempt(lambda: _tasks(config), problems)
    pairs = _attempt(lambda: _pairs(config.retention), problems)
    if to_train:
        _attempt(lambda: _packages(config), problems)
        _attempt(lambda: make_combination(config, ()), problems)  # needs TorchJD for some methods
    if len(problems) == 1:
        raise problems[0]
    if problems or weights is None or tasks is None:
        raise MtlError([problem for error in problems for problem in error.problems])
    return Inputs(tasks, weights, pairs)


def _attempt(action: Callable[[], T], problems: list[MtlError]) -> T | None:
    try:
        return action()
    except MtlError as error:
        problems.append(error)
        return None


def _packages(config: Config) -> None:
    problems = []
    if config.freeze.lora is not None and importlib.util.find_spec("peft") is None:
        found = "lora, and the Python package peft is not installed"
        repair = "pip install 'mtl[lora]', or pip install peft"
        problems.append(Problem("freeze.backbone", found, "peft, which makes the adapters", repair))
    for package in TRACKERS:
        if package in config.logger.kinds and importlib.util.find_spec(package) is None:
            found = f"{package}, and the Python package {package} is not installed"
            repair = f"pip install 'mtl[{package}]', or logger=csv"
            problems.append(Problem("logger", found, f"the extra {package}", repair))
    if problems:
        raise ConfigError(problems)


def _tasks(config: Config) -> dict[str, TaskData]:
    tasks = load_tasks(task_specs(config.data), config.seed)
    check_stages(config, tasks)
    if config.evaluation.test:
        return tasks
    return {name: replace(task, test=task.test.select([])) for name, task in tasks.items()}


def _weights(config: Config) -> Path:
    backbone = config.backbone
    if config.model.init_from is None:
        return locate(
            BackboneSpec(
                name=backbone.name,
                path=backbone.path,
                package=backbone.package,
                sha256=None if backbone.path else backbone.sha256,
                revision=backbone.revision,
                random=backbone.random and not backbone.path,
            )
        )
    try:
        return find_model(expanded(config.model.init_from))
    except MtlError as error:
        problems = [replace(problem, place=f"model.init_from: {problem.place}") for problem in error.problems]
        raise type(error)(problems) from None


def _pairs(retention: RetentionConfig) -> Pairs | None:
    path = _file(retention.path)
    if path is None:
        return None
    return read_pairs(path, retention.first_column, retention.second_column, retention.score_column)


def task_specs(data: DataConfig) -> list[TaskSpec]:
    """Return the data files and settings of each task."""
    sizes = {"train": data.batch_size, "val": data.eval_batch_size, "test": data.eval_batch_size}
    most = data.most_batches
    return [
        TaskSpec(
            name=name,
            train=_file(task.train),
            val=_file(task.val),
            test=_file(task.test),
            path=_file(task.path),
            dataset=_dataset(task, f"data.tasks.{name}"),
            text_column=task.text_column,
            label_column=task.label_column,
            labels=None if task.labels is None else tuple(task.labels),
            fractions=(data.split[0], data.split[1], data.split[2]),
            slices=tuple(task.slices),
            train_share=data.train_share,
            missing=task.missing,
            split_with=tuple(task.split_with or ()),
            most_rows={} if most is None else {split: most * size for split, size in sizes.items()},
        )
        for name, task in data.tasks.items()
    ]


def _dataset(task: TaskConfig, key: str) -> DatasetSpec | None:
    if task.dataset is None:
        return None
    return DatasetSpec(task.dataset, task.config, task.revision, task.splits or {}, key)


def data_files(config: Config) -> list[tuple[str, Path]]:
    """Return the key and path of each data file of a run."""
    texts: dict[str, str | None] = {
        f"data.tasks.{name}.{key}": getattr(task, key) for name, task in config.data.tasks.items() for key in _FILES
    }
    texts["retention.path"] = config.retention.path
    return [(key, path) for key, text in texts.items() if (path := _file(text)) is not None]


def dataset_files(config: Config) -> list[Path]:
    """Return the files of all data sets that are local folders."""
    folders = {expanded(task.dataset) for task in config.data.tasks.values() if task.dataset is not None}
    return sorted(path for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.is_file())


def dataset_rows(config: Config, tasks: Mapping[str, TaskData]) -> dict[str, str]:
    """Return the SHA-256 of the rows of each split of each data set by its key and name."""
    return {
        f"data.tasks.{name}.dataset={rows.path}": rows.content()
        for name, task in tasks.items()
        if config.data.tasks[name].dataset is not None
        for rows in task.splits.values()
    }


def _file(text: str | None) -> Path | None:
    if text is None:
        return None
    if text.startswith(BUNDLED):
        return _BUNDLED_FOLDER / text.removeprefix(BUNDLED)
    return expanded(text)


def absolute(config: Config) -> Config:
    """Return the configuration with absolute paths, so that a run's copy is valid in every folder."""
    tasks = {}
    for name, task in config.data.tasks.items():
        paths: dict[str, Any] = {key: _absolute(getattr(task, key)) for key in _FILES}
        if task.dataset and expanded(task.dataset).is_dir():
            paths["dataset"] = _absolute(task.dataset)
        tasks[name] = replace(task, **paths)
    return replace(
        config,
        data=replace(config.data, tasks=tasks),
        backbone=replace(config.backbone, path=_absolute(config.backbone.path)),
        model=replace(config.model, init_from=_absolute(config.model.init_from)),
        retention=replace(config.retention, path=_absolute(config.retention.path)),
    )


def _absolute(text: str | None) -> str | None:
    if text is None or text.startswith(BUNDLED):
        return text
    return str(expanded(text).absolute())
