"""Write a comparison to the terminal, as Markdown, as JSON, and as CSV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from mtl.base import formatting
from mtl.base.files import write_json, write_text_atomically
from mtl.base.terminal import console
from mtl.comparison import words
from mtl.comparison.comparing import Comparison
from mtl.comparison.differences import SCORE
from mtl.comparison.page import comparison_page
from mtl.comparison.recommendation import Advice, recommend
from mtl.comparison.scenario_metrics import Figures
from mtl.comparison.tables import brief_tables, columns, difference_table, scenario_table, sharing_table
from mtl.evaluation.predictions import write_csv
from mtl.reporting.markdown import code, escaped, folded
from mtl.reporting.tables import Table


def as_dict(comparison: Comparison, advice: Sequence[Advice]) -> dict[str, Any]:
    """Return the layout of ``comparison.json``: plain numbers, texts, lists and dictionaries."""
    return {
        "tasks": list(comparison.tasks),
        "rare_classes": comparison.rare_classes,
        "ranked_by": comparison.ranked_by,
        "best": comparison.best.name,
        "cheapest": comparison.cheapest.name,
        "resamples": comparison.resamples,
        "scenarios": [_scenario(row) for row in comparison.rows],
        "differences": [{**asdict(difference), "real": difference.real} for difference in comparison.differences],
        "sharing": [{**asdict(difference), "real": difference.real} for difference in comparison.sharing],
        "advice": [asdict(piece) for piece in advice],
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


def _csv_rows(comparison: Comparison) -> Iterator[list[str | float | None]]:
    """Yield a heading, then for each scenario every figure, its deviation over the seeds, and its gap to the best."""
    shown = columns(comparison)
    yield [
        *("scenario", "training_rows", "runs"),
        *(name for column in shown for name in (column.key, f"{column.key}.deviation")),
        *("to_best", "to_best.low", "to_best.high", "to_best.p_adjusted"),
    ]
    for row in comparison.rows:
        spreads = [column.spread(row) for column in shown]
        figures = [cell for spread in spreads for cell in ((spread.mean, spread.deviation) if spread else (None, None))]
        gap = comparison.difference(row.name, comparison.best.name)
        to_best = [gap.value, gap.low, gap.high, gap.p_adjusted] if gap else [None] * 4
        yield [row.name, row.scenario.size, len(row.scenario.runs), *figures, *to_best]


def render(comparison: Comparison, advice: Sequence[Advice]) -> str:
    """Return the comparison as Markdown."""
    return "\n\n".join(_markdown_blocks(comparison, advice)) + "\n"


def _markdown_blocks(comparison: Comparison, advice: Sequence[Advice]) -> Iterator[str]:
    yield "# Comparison of scenarios"
    for piece in advice:
        yield f"**{escaped(piece.question)}: {escaped(piece.answer)}.** " + " ".join(map(escaped, piece.reasons))
    yield from ("## Scenarios", words.ranking(comparison), scenario_table(comparison).to_markdown())
    if comparison.sharing:
        yield from ("## Sharing the encoder", words.SHARING, sharing_table(comparison).to_markdown())
    yield from _differences(comparison)
    if left_out := words.left_out(comparison):
        yield from ("## Not in the table", _bullets(left_out))
    yield from ("## How to read this", _bullets(words.method(comparison)))
    runs = {row.name: ", ".join(code(str(run.folder)) for run in row.scenario.runs) for row in comparison.rows}
    yield folded("Runs", "\n".join(f"- {escaped(name)}: {folders}" for name, folders in runs.items()))


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def _differences(comparison: Comparison) -> Iterator[str]:
    for reference in dict.fromkeys(difference.reference for difference in comparison.differences):
        differences = [difference for difference in comparison.differences if difference.reference == reference]
        scores = [difference for difference in differences if difference.measure == SCORE]
        yield from (f"## Against {escaped(reference)}", difference_table(reference, scores).to_markdown())
        if by_task := [difference for difference in differences if difference.measure != SCORE]:
            yield folded("By task", difference_table(reference, by_task).to_markdown())


def blocks(comparison: Comparison, advice: Sequence[Advice]) -> Iterator[RenderableType]:
    """Yield what to print, in order."""
    yield from brief_tables(comparison)
    for piece in advice:
        yield Text.assemble((f"{piece.question}: ", "bold"), (formatting.one_line(piece.answer), "bold green"))
        yield Padding(Text(formatting.one_line(" ".join(piece.reasons))), (0, 0, 1, 2))
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
    """Write ``comparison.html``, ``.md``, ``.csv`` and ``.json`` into a folder, which is made if missing."""
    advice = recommend(comparison)
    write_text_atomically(folder / "comparison.md", render(comparison, advice))
    write_csv(folder / "comparison.csv", _csv_rows(comparison))
    write_json(folder / "comparison.json", as_dict(comparison, advice))
    write_text_atomically(folder / "comparison.html", comparison_page(comparison, advice))
