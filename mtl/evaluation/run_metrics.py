"""The file ``metrics.json`` of a run: the reports of every task and split, the cost, and facts about the run."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mtl.base import schema
from mtl.base.errors import DataError, Problem
from mtl.base.files import content_checksum, is_sealed, not_pipe, write_sealed_json
from mtl.evaluation.records import Natural, Real, Reports, Retention
from mtl.evaluation.task_gradients import GradientFigures

_EXPECTED = "the metrics.json of a finished run"
_AGAIN = "evaluate the run again: it writes this file"
_OPTIONAL = ("stages", "calibration", "answering", "retention", "gradients")
"""Parts that are left out of the file where they were not measured."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The time and memory that a run took; None where it was not measured (an evaluation has no training time)."""

    # Wall-clock seconds of the training with its validations, without encoding for frozen layers
    train_seconds: Real | None = None
    trainable_parameters: Natural | None = None  # parameters (scalars) that were trained at any time of the run
    total_parameters: Natural | None = None  # parameters of the encoder and all heads
    # Training rows of all tasks, each pass counted, per second of ``total_seconds``
    sentences_per_second: Real | None = None
    peak_memory_bytes: Natural | None = None  # the most memory in use: of the accelerator, else of the process
    skipped_steps: Natural = 0  # optimizer steps that were skipped because loss or gradients were not finite
    # Seconds to run all training and validation rows through the frozen layers once, as with an empty cache, even where
    # they were cached; 0 where nothing is computed ahead of training, None where it is unknown
    encoding_seconds: Real | None = None

    @property
    def total_seconds(self) -> float | None:
        """Seconds of encoding and training together; None where one of them is unknown."""
        if self.train_seconds is None or self.encoding_seconds is None:
            return None
        return self.train_seconds + self.encoding_seconds


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """The content of ``metrics.json``."""

    tasks: Reports
    cost: Cost = field(default_factory=Cost)
    run: Mapping[str, Any] = field(default_factory=dict)  # facts, all valid JSON: experiment, backbone, seed, data
    retention: Retention | None = None  # None where it was not measured
    gradients: GradientFigures | None = None  # None where they were not measured
    # The SHA-256 of each file of predictions and maps beside it, by its path from the run folder; older runs have none
    files: Mapping[str, str] = field(default_factory=dict)


def validation_score(tasks: Reports) -> float | None:
    """Return macro-F1 on the validation rows, averaged over the tasks; None unless all tasks have it."""
    scores = [splits["val"].macro_f1 for splits in tasks.values() if "val" in splits]
    return statistics.fmean(scores) if scores and len(scores) == len(tasks) else None


def checksums(folder: Path) -> dict[str, str]:
    """Return `RunMetrics.files` for the present files of a run folder."""
    paths = sorted([*folder.glob("predictions/*.csv"), *folder.glob("maps/*.npz")])
    return {path.relative_to(folder).as_posix(): content_checksum(path) for path in paths}


def check_file(folder: Path, path: Path, files: Mapping[str, str]) -> None:
    """Check that a file of predictions or a map in a run folder is as the run wrote it, if it is in `RunMetrics.files`.

    Raises:
        DataError: It has changed, or cannot be read.
    """
    expected = files.get(path.relative_to(folder).as_posix())
    if expected is None or not path.exists():  # reading it reports that it is missing
        return
    try:
        changed = content_checksum(path) != expected
    except OSError as error:
        raise DataError(Problem(str(path), f"not readable: {error.strerror}", "a file of a finished run")) from None
    if changed:
        found, allowed = "a changed or damaged file: its checksum differs", "the file as the run wrote it"
        raise DataError(Problem(str(path), found, allowed, "copy the run again, or evaluate it again"))


def plain(record: Any) -> dict[str, Any]:
    """Return a record as ``metrics.json`` holds it: nested dictionaries, without the parts that were not measured."""
    return asdict(record, dict_factory=lambda pairs: {k: v for k, v in pairs if v is not None or k not in _OPTIONAL})


def write_metrics(path: str | Path, metrics: RunMetrics) -> None:
    """Write ``metrics.json``, whole or not at all; a number that is not finite becomes ``null``."""
    values = plain(metrics)
    values["cost"]["total_seconds"] = metrics.cost.total_seconds
    order = ("tasks", "cost", "retention", "gradients", "run", *(["files"] if metrics.files else []))
    write_sealed_json(path, {key: values[key] for key in order if key in values})


def read_metrics(path: str | Path) -> RunMetrics:
    """Read what `write_metrics` wrote; unknown keys are ignored.

    Raises:
        DataError: The file is missing, is not JSON, or has fields that are missing or wrong (all named).
    """
    values = _read_json(Path(path))
    metrics = schema.read_record(RunMetrics, values, str(path))
    if "checksum" in values and not is_sealed(path):
        raise DataError(Problem(str(path), "a changed or damaged file: its checksum differs", _EXPECTED, _AGAIN))
    return metrics


def _read_json(path: Path) -> Any:
    repair = _AGAIN
    try:
        return json.loads(not_pipe(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        found, repair = "no such file", f"look for the run's folder; a run writes {path.name} when it ends"
    except OSError as error:
        found, repair = f"not readable: {error.strerror}", ""
    except UnicodeDecodeError as error:
        found = f"not UTF-8 text (byte {error.start})"
    except json.JSONDecodeError as error:
        found = f"not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets thousands of levels deep
        found = f"not JSON: {error}"
    raise DataError(Problem(str(path), found, _EXPECTED, repair))
