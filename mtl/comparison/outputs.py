"""Write a comparison to the terminal, as Markdown, as JSON, and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from mtl.base import formatting
from mtl.base.files import replacing, write_json, write_text_atomically
from mtl.base.terminal import console
from mtl.comparison import words
from mtl.comparison.columns import columns
from mtl.comparison.comparing import Comparison
from mtl.comparison.differences import SCORE
from mtl.comparison.page import comparison_page
from mtl.comparison.recommendation import Advice, recommend
from mtl.comparison.scenario_metrics import Figures
from mtl.comparison.tables import brief_tables, difference_table, scenario_table, sharing_table
from mtl.evaluation.predictions import guarded
from mtl.reporting.markdown import code, escaped, folded
from mtl.reporting.tables import Table


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


def render(comparison: Comparison, advice: Sequence[Advice]) -> str:
    """Return the comparison as Markdown.

    Args:
        comparison: The comparison.
        advice: What follows from it.
    """
    return "\n\n".join(_blocks(comparison, advice)) + "\n"


def _blocks(comparison: Comparison, advice: Sequence[Advice]) -> Iterator[str]:
    yield "# Comparison of scenarios"
    for each in advice:
        yield f"**{escaped(each.question)}: {escaped(each.answer)}.** " + " ".join(map(escaped, each.reasons))
    yield from ("## Scenarios", words.ranking(comparison), scenario_table(comparison).to_markdown())
    if comparison.sharing:
        yield from ("## Sharing the encoder", words.SHARING, sharing_table(comparison).to_markdown())
    yield from _differences(comparison)
    yield from _left_out(comparison)
    yield from ("## How to read this", "\n".join(f"- {escaped(line)}" for line in words.method(comparison)))
    runs = [
        f"- {escaped(row.name)}: {', '.join(code(str(run.folder)) for run in row.scenario.runs)}"
        for row in comparison.rows
    ]
    yield folded("Runs", "\n".join(runs))


def _differences(comparison: Comparison) -> Iterator[str]:
    for reference in dict.fromkeys(each.reference for each in comparison.differences):
        differences = [each for each in comparison.differences if each.reference == reference]
        yield f"## Against {escaped(reference)}"
        yield difference_table(reference, [each for each in differences if each.measure == SCORE]).to_markdown()
        by_task = [each for each in differences if each.measure != SCORE]
        if by_task:
            yield folded("By task", difference_table(reference, by_task).to_markdown())


def _left_out(comparison: Comparison) -> Iterator[str]:
    if not (comparison.unfinished or comparison.unreadable or comparison.notes):
        return
    yield "## Not in the table"
    lines = [f"- {escaped(line)}" for line in words.left_out(comparison)]
    yield "\n".join(lines)


def blocks(comparison: Comparison, advice: Sequence[Advice]) -> Iterator[RenderableType]:
    """Yield what to print, in order.

    Args:
        comparison: The comparison.
        advice: What follows from it.
    """
    yield from brief_tables(comparison)
    for each in advice:
        yield Text.assemble((f"{each.question}: ", "bold"), (formatting.one_line(each.answer), "bold green"))
        yield Padding(Text(formatting.one_line(" ".join(each.reasons))), (0, 0, 1, 2))
    for line in words.left_out(comparison):
        yield Text(formatting.one_line(line), style="yellow")


def show(comparison: Comparison) -> None:
    """Print the comparison."""
    out = console()
    for block in blocks(comparison, recommend(comparison)):
        out.print(block)
        if isinstance(block, Table):
            out.print()


def write(folder: Path, comparison: Comparison) -> None:
    """Write ``comparison.html``, ``.md``, ``.csv`` and ``.json`` into a folder.

    Args:
        folder: Where to; made if missing.
        comparison: The comparison.
    """
    advice = recommend(comparison)
    write_text_atomically(folder / "comparison.md", render(comparison, advice))
    write_comparison_csv(folder / "comparison.csv", comparison)
    write_comparison_json(folder / "comparison.json", comparison, advice)
    write_text_atomically(folder / "comparison.html", comparison_page(comparison, advice))
