"""The file ``metrics.json`` of a run: the reports of every task and split, the cost, and facts about the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mtl.base.errors import DataError, Problem
from mtl.base.files import content_checksum, is_sealed, write_sealed_json
from mtl.evaluation.records import Fields, Retention, TaskReport, read_report
from mtl.evaluation.task_gradients import GradientFigures


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took; None where it was not measured (an evaluation has no training time).

    Attributes:
        train_seconds: Wall-clock seconds of the training with its validations, without encoding for frozen layers.
        trainable_parameters: Parameters (scalars) that were trained at any time of the run.
        total_parameters: Parameters of the encoder and all heads.
        sentences_per_second: Rows of all tasks that training went through per second of ``total_seconds``.
        peak_memory_bytes: The most memory in use: of the accelerator, else of the process.
        skipped_steps: Optimizer steps that were left out of training because loss or gradients were not finite.
        encoding_seconds: Seconds that it takes to run all training and validation rows through the frozen layers once,
            as with an empty cache, even where they were found in it; 0 where nothing is computed ahead of training,
            None where it is not known.
    """

    train_seconds: float | None = None
    trainable_parameters: int | None = None
    total_parameters: int | None = None
    sentences_per_second: float | None = None
    peak_memory_bytes: int | None = None
    skipped_steps: int = 0
    encoding_seconds: float | None = None

    @property
    def total_seconds(self) -> float | None:
        """Seconds of encoding and training together; None where one of them is not known."""
        if self.train_seconds is None or self.encoding_seconds is None:
            return None
        return self.train_seconds + self.encoding_seconds


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """What ``metrics.json`` holds.

    Attributes:
        tasks: The report of each task (outer key) on each split (inner key: ``val``, ``test``).
        cost: What the run took.
        run: Free facts of the run, all of them valid JSON: experiment, backbone, seed, data.
        retention: How much of its general ability the encoder kept; None where it was not measured.
        gradients: Whether the tasks pulled the encoder in the same direction; None where it was not measured.
        files: The SHA-256 of each file of predictions and maps beside it, by its path from the run folder; older runs
            have none.
    """

    tasks: Mapping[str, Mapping[str, TaskReport]]
    cost: Cost = field(default_factory=Cost)
    run: Mapping[str, Any] = field(default_factory=dict)
    retention: Retention | None = None
    gradients: GradientFigures | None = None
    files: Mapping[str, str] = field(default_factory=dict)


def checksums(folder: Path) -> dict[str, str]:
    """Return what `RunMetrics.files` is of a run folder, as its files are now."""
    paths = sorted([*folder.glob("predictions/*.csv"), *folder.glob("maps/*.npz")])
    return {path.relative_to(folder).as_posix(): content_checksum(path) for path in paths}


def check_file(folder: Path, path: Path, files: Mapping[str, str]) -> None:
    """Check that a file of predictions or a map is what the run wrote.

    Args:
        folder: The run folder.
        path: The file.
        files: See `RunMetrics.files`; a file that is not listed there is not checked.

    Raises:
        DataError: It has changed, or cannot be read.
    """
    expected = files.get(path.relative_to(folder).as_posix())
    if expected is None or not path.exists():  # whoever reads it says that it is missing
        return
    try:
        changed = content_checksum(path) != expected
    except OSError as error:
        raise DataError(Problem(str(path), f"not readable: {error.strerror}", "a file of a finished run")) from None
    if changed:
        found, allowed = "a changed or damaged file: its checksum differs", "the file as the run wrote it"
        raise DataError(Problem(str(path), found, allowed, "copy the run again, or evaluate it again"))


def write_metrics(path: str | Path, metrics: RunMetrics) -> None:
    """Write ``metrics.json``, whole or not at all; a number that is not finite becomes ``null``.

    Args:
        path: The file to write or to replace.
        metrics: What to write.
    """
    tasks = {
        task: {split: report.to_dict() for split, report in splits.items()} for task, splits in metrics.tasks.items()
    }
    kept = {} if metrics.retention is None else {"retention": asdict(metrics.retention)}
    pulls = {} if metrics.gradients is None else {"gradients": asdict(metrics.gradients)}
    files = {"files": dict(metrics.files)} if metrics.files else {}
    cost = {**asdict(metrics.cost), "total_seconds": metrics.cost.total_seconds}
    write_sealed_json(path, {"tasks": tasks, "cost": cost, **kept, **pulls, "run": metrics.run, **files})


def read_metrics(path: str | Path) -> RunMetrics:
    """Read what `write_metrics` wrote; keys that it does not know are passed over.

    Args:
        path: The file to read.

    Raises:
        DataError: The file misses, is not JSON, or has fields that miss or hold something else (all named).
    """
    fields = Fields(_read_json(Path(path)), str(path))
    tasks = {
        task: {split: read_report(report) for split, report in splits.entries()}
        for task, splits in fields.fields("tasks").entries()
    }
    run = fields.fields("run").plain() if "run" in fields else {}
    retention = None if fields.missing("retention") else Retention.read(fields.fields("retention"))
    gradients = None if fields.missing("gradients") else GradientFigures.read(fields.fields("gradients"))
    files = {name: str(checksum) for name, checksum in _files(fields).items()}
    metrics = RunMetrics(tasks, _read_cost(fields.fields("cost")), run, retention, gradients, files)
    fields.finish()
    if "checksum" in fields and not is_sealed(path):
        found, expected = "a changed or damaged file: its checksum differs", "the metrics.json of a finished run"
        raise DataError(Problem(str(path), found, expected, "evaluate the run again: it writes this file"))
    return metrics


def _files(fields: Fields) -> dict[str, Any]:
    return fields.fields("files").plain() if "files" in fields else {}


def _read_cost(fields: Fields) -> Cost:
    return Cost(
        train_seconds=fields.optional_number("train_seconds"),
        trainable_parameters=fields.optional_integer("trainable_parameters"),
        total_parameters=fields.optional_integer("total_parameters"),
        sentences_per_second=fields.optional_number("sentences_per_second"),
        peak_memory_bytes=fields.optional_integer("peak_memory_bytes"),
        skipped_steps=fields.optional_integer("skipped_steps") or 0,
        encoding_seconds=fields.optional_number("encoding_seconds"),
    )


def _read_json(path: Path) -> Any:
    expected = "the metrics.json of a finished run"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        found = "no such file"
        repair = f"look for the run's folder; a run writes {path.name} when it ends"
    except OSError as error:
        found, repair = f"not readable: {error.strerror}", ""
    except UnicodeDecodeError as error:
        found, repair = f"not UTF-8 text (byte {error.start})", "evaluate the run again: it writes this file"
    except json.JSONDecodeError as error:
        found, repair = (
            f"not JSON: {error.msg} (line {error.lineno}, column {error.colno})",
            "evaluate the run again: it writes this file",
        )
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets thousands of levels deep
        found, repair = f"not JSON: {error}", "evaluate the run again: it writes this file"
    raise DataError(Problem(str(path), found, expected, repair))
