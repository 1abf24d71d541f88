"""Training from Python: `train`, which goes the way of the command line, and the `Run` that it returns."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl.base.cli import of_system
from mtl.base.errors import ConfigError, Problem, printable
from mtl.base.run_folder import METRICS, in_use
from mtl.config.command_line import check_command_line
from mtl.config.composing import making_folders
from mtl.config.fields import Config
from mtl.config.overrides import lines_of
from mtl.data.in_memory import Unwritten, task_sources, write_all
from mtl.training.ranks import is_launched
from mtl.training.study import plan_study

if TYPE_CHECKING:
    import pandas as pd

    from mtl.evaluation.run_metrics import RunMetrics
    from mtl.inference.models import MultiTaskModel

_LOGGERS = ("mtl", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")


@dataclass(frozen=True)
class Run:
    """A finished run: its figures, its model, and its files.

    `train` returns one; ``Run(folder)`` is that of an earlier training.
    """

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))

    @cached_property
    def model(self) -> MultiTaskModel:
        """The trained model, on the GPU if there is one.

        Raises:
            ModelError: The folder has no saved model, or a damaged one.
        """
        from mtl.inference.models import MultiTaskModel

        return MultiTaskModel.from_pretrained(self.folder)

    @cached_property
    def record(self) -> RunMetrics:
        """All that ``metrics.json`` holds: reports with confusion matrices and calibration, cost, retention, facts.

        Raises:
            DataError: The folder has no such file, or a damaged one.
        """
        from mtl.evaluation.run_metrics import read_metrics

        return read_metrics(self.folder / METRICS)

    @property
    def metrics(self) -> pd.DataFrame:
        """The figures of each task and split, which are the index.

        The columns are ``accuracy``, ``macro_precision``, ``macro_recall``, ``macro_f1``, ``weighted_precision``,
        ``weighted_recall``, ``weighted_f1``, shares from 0 to 1, and ``rows``.

        Raises:
            DataError: As `record` does.
        """
        rows: dict[tuple[str, ...], dict[str, float]] = {}
        for task, splits in self.record.tasks.items():
            for split, report in splits.items():
                shares = {name: value for name, value in asdict(report).items() if isinstance(value, float)}
                rows[task, split] = {**shares, "rows": report.rows}
        return _indexed(rows, "task", "split")

    @property
    def classes(self) -> pd.DataFrame:
        """``precision``, ``recall``, ``f1`` and ``support`` of each class; the index is task, split and label.

        Raises:
            DataError: As `record` does.
        """
        rows: dict[tuple[str, ...], dict[str, Any]] = {
            (task, split, label): asdict(scores)
            for task, splits in self.record.tasks.items()
            for split, report in splits.items()
            for label, scores in report.per_class.items()
        }
        return _indexed(rows, "task", "split", "label")

    @property
    def report(self) -> Path:
        """The report, a Markdown file."""
        return self.folder / "report.md"

    @property
    def page(self) -> Path:
        """The page with charts, an HTML file; it is not written with ``evaluation.figures=false``."""
        return self.folder / "report.html"

    def predictions(self, task: str, split: str = "test") -> Path:
        """Return the CSV file with the label, the prediction and the probabilities of each row of a split."""
        return self.folder / "predictions" / f"{task}_{split}.csv"


def _indexed(rows: Mapping[tuple[str, ...], Mapping[str, Any]], *names: str) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows.values()), index=pd.MultiIndex.from_tuples(rows, names=names))


def train(
    data: Mapping[str, Any] | str | None = None,
    *,
    experiment: str | None = None,
    backbone: str | None = None,
    seed: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    config_dir: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    **settings: Any,
) -> Run:
    """Train all tasks on a shared encoder, evaluate, save the model, and write the report, as ``python -m mtl.train``.

    Everything is checked and done as by that command, with the same figures for the same rows and seed, and what it
    prints is printed. Rows in memory are written into the run folder first, so that the run can be resumed, evaluated
    and diagnosed later.

    Args:
        data: The data of each task by its name. It is a data frame or an Arrow table with the columns ``text`` and
            ``label``, a sequence of ``(text, label)`` pairs, a ``Dataset`` or ``DatasetDict`` of `datasets`, or the
            path of a file. Without splits of its own it is split into train, val and test by ``data.split``. A mapping
            ``{"train": …, "val": …, "test": …}`` gives a split each; it may have all settings of
            ``data.tasks.<task>``, such as ``text_column`` and ``labels``. A text is a file of the configuration group
            ``data``. By default the shipped corpus is used.
        experiment: A whole scenario: a file of the configuration group ``experiment``.
        backbone: The encoder: a file of the configuration group ``backbone``.
        seed: The seed of split, heads, order and dropout.
        folder: The run folder, new or that of an earlier run, which is replaced; by default
            ``outputs/<date>/<time>``.
        config_dir: A folder with configuration files of your own.
        overrides: Further arguments as on the command line: ``["freeze=backbone", "trainer.max_epochs=3"]``.
        **settings: The same by name: ``freeze="backbone", trainer={"max_epochs": 3}``.

    Returns:
        The finished run.

    Raises:
        MtlError: Configuration, data, weights or the disk: all problems at once, in the words of the command.
        Terminated: SIGTERM, SIGUSR1 or SIGUSR2 was received; the message has the command to resume with.
    """
    if is_launched(os.environ):
        repair = "torchrun … -m mtl.train …, or start this program alone, with trainer={'devices': 2}"
        raise ConfigError(Problem("launcher", "one of several processes", "a single process", repair))
    tasks, unwritten = task_sources(data) if isinstance(data, Mapping) else ({}, [])
    named = {"experiment": experiment, "backbone": backbone, "seed": seed, "hydra.run.dir": folder}
    lines = lines_of({name: value for name, value in named.items() if value is not None} | settings)
    if data is not None:
        lines += lines_of({"data": "files" if isinstance(data, Mapping) else data})
    lines += [*lines_of({"data": {"tasks": tasks}}), *overrides]
    if flags := [line for line in lines if line.startswith("-")]:
        expected = "key=value or group=option; a sweep is a loop over calls, or python -m mtl.train -m"
        raise ConfigError(Problem("overrides", flag, expected) for flag in flags)
    command = check_command_line([*([] if config_dir is None else ["--config-dir", os.fspath(config_dir)]), *lines])
    plan_study(command)
    assert command.first is not None, "flags that only show something are refused"  # noqa: S101
    try:
        with making_folders():
            folder, choices = command.run()
        with in_use(folder), logging_into(folder):
            config = _with_files(command.first, unwritten, folder)
            from mtl.training.run import train as run  # torch comes only now

            run(config, folder, choices)
    except OSError as error:
        raise of_system(error) from error
    return Run(folder)


def _with_files(config: Config, unwritten: Sequence[Unwritten], folder: Path) -> Config:
    """Write the rows in memory and return the configuration with the paths of their files."""
    paths = write_all(unwritten, folder)
    tasks = {name: replace(task, **paths.get(name, {})) for name, task in config.data.tasks.items()}
    return replace(config, data=replace(config.data, tasks=tasks))


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@contextmanager
def logging_into(folder: Path, *, shown: bool = True) -> Iterator[None]:
    """Keep what a run logs in ``train.log`` and show it; put back loggers and warning filters afterwards.

    Where the program has handlers of its own, they show it. With ``shown=False`` nothing is shown: what the run
    prints is kept in the file as well.
    """
    file = logging.FileHandler(folder / "train.log", encoding="utf-8")
    handlers: list[logging.Handler] = [file]
    file.setFormatter(_Printable("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    if shown and not logging.getLogger("mtl").hasHandlers():
        handlers.append(logging.StreamHandler(sys.stdout))
        handlers[1].setFormatter(_Printable("%(message)s"))
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    logger = logging.getLogger("mtl")
    logger.setLevel(logging.INFO)
    for handler in handlers:
        logger.addHandler(handler)
    try:
        with warnings.catch_warnings(), nullcontext() if shown else redirect_stdout(file.stream):
            yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
