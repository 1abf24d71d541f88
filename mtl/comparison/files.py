"""A comparison for programs: ``comparison.json`` with everything, ``comparison.csv`` with a line for each scenario."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mtl.base.files import replacing, write_json
from mtl.comparison import words
from mtl.comparison.columns import columns
from mtl.comparison.comparing import Comparison
from mtl.comparison.recommendation import Advice
from mtl.comparison.summary import Figures
from mtl.evaluation.predictions import guarded


def write_comparison_json(path: str | Path, comparison: Comparison, advice: Sequence[Advice]) -> None:
    """Write all figures, differences and advice, whole or not at all.

    Args:
        path: The file to write or to replace.
        comparison: The comparison.
        advice: What follows from it.
    """
    write_json(path, as_dict(comparison, advice))


def as_dict(comparison: Comparison, advice: Sequence[Advice]) -> dict[str, Any]:
    """Return the layout of ``comparison.json``: plain numbers, texts, lists and dictionaries."""
    return {
        "tasks": list(comparison.tasks),
        "rare_classes": comparison.rare,
        "ranked_by": comparison.ranked_by,
        "best": comparison.best.name,
        "cheapest": comparison.cheapest.name,
        "resamples": comparison.resamples,
        "scenarios": [_scenario(row) for row in comparison.rows],
        "differences": [{**asdict(each), "real": each.real} for each in comparison.differences],
        "sharing": [{**asdict(each), "real": each.real} for each in comparison.sharing],
        "advice": [asdict(each) for each in advice],
        "unfinished": [{**asdict(job), "folder": str(job.folder)} for job in comparison.unfinished],
        "left_out": words.left_out(comparison),
        "method": words.method(comparison),
    }


def _scenario(row: Figures) -> dict[str, Any]:
    figures = asdict(row, dict_factory=lambda pairs: {key: value for key, value in pairs if key != "scenario"})
    return {
        "name": row.name,
        "training_rows": row.scenario.size,
        "seeds": [run.seed for run in row.scenario.runs],
        "runs": [str(run.folder) for run in row.scenario.runs],
        **figures,
    }


def write_comparison_csv(path: str | Path, comparison: Comparison) -> None:
    """Write a line for each scenario: every figure, its deviation over the seeds, and what it has less than the best.

    Args:
        path: The file to write or to replace.
        comparison: The comparison.
    """
    shown = columns(comparison)
    header = ["scenario", "training_rows", "runs"]
    header += [name for column in shown for name in (column.key, f"{column.key}.deviation")]
    header += ["to_best", "to_best.low", "to_best.high", "to_best.p_adjusted"]
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(map(guarded, header))
        for row in comparison.rows:
            spreads = [column.figure(row) for column in shown]
            figures = [cell for each in spreads for cell in ((each.mean, each.deviation) if each else (None, None))]
            found = comparison.difference(row.name, comparison.best.name)
            against = [found.value, found.low, found.high, found.p_adjusted] if found else [None] * 4
            writer.writerow([guarded(row.name), row.scenario.size, len(row.scenario.runs), *figures, *against])
