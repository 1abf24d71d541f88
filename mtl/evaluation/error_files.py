"""The files ``errors/<task>_<split>.csv`` and ``…_slices.csv``; cells guarded as in `mtl.evaluation.predictions`."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from mtl.base.files import replacing
from mtl.evaluation.error_analysis import NEAREST, ErrorAnalysis, Mistake
from mtl.evaluation.predictions import guarded
from mtl.evaluation.slices import SliceFigures

FOLDER = "errors"
_DECIMALS = 6


def errors_path(run: str | Path, task: str, split: str) -> Path:
    """Return where a run's folder holds the mistakes of a task on a split."""
    return Path(run) / FOLDER / f"{task}_{split}.csv"


def slices_path(run: str | Path, task: str, split: str) -> Path:
    """Return where a run's folder holds the slices of a task on a split."""
    return Path(run) / FOLDER / f"{task}_{split}_slices.csv"


def write_errors(run: str | Path, task: str, analysis: ErrorAnalysis) -> None:
    """Write the mistakes and the slices of a task, each file whole or not at all.

    Args:
        run: The run folder.
        task: The task.
        analysis: What to write.
    """
    mistakes = map(_mistake_cells, analysis.mistakes)
    _write(errors_path(run, task, analysis.split), _mistake_header(), mistakes)
    _write(slices_path(run, task, analysis.split), _SLICE_HEADER, map(_slice_cells, analysis.slices))


_SLICE_HEADER = (
    "slice",
    "value",
    "rows",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "macro_f1",
    "difference",
    "extra_errors",
    "beyond_noise",
)


def _mistake_header() -> list[str]:
    near = [
        f"nearest_{at}_{what}" for at in range(1, NEAREST + 1) for what in ("text", "label", "source", "similarity")
    ]
    return ["text", "label", "predicted", "probability", "margin", "source", *near]


def _mistake_cells(mistake: Mistake) -> list[str | float]:
    cells: list[str | float] = [*map(guarded, (mistake.text, mistake.label, mistake.predicted))]
    cells += [_rounded(mistake.probability), _rounded(mistake.margin), guarded(mistake.source)]
    for near in mistake.nearest:
        cells += [*map(guarded, (near.text, near.label, near.source)), _rounded(near.similarity)]
    return cells + [""] * (4 * (NEAREST - len(mistake.nearest)))


def _slice_cells(found: SliceFigures) -> list[str | float]:
    shares = (found.accuracy, found.low, found.high, found.macro_f1, found.difference, found.extra_errors)
    noise = "yes" if found.beyond_noise else "no"
    return [guarded(found.kind), guarded(found.value), found.support, *map(_rounded, shares), noise]


def _rounded(value: float) -> float:
    return round(value, _DECIMALS)


def _write(path: Path, header: Sequence[str], rows: Iterator[list[str | float]]) -> None:
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(header)
        writer.writerows(rows)
