"""Write a comparison to the terminal, as Markdown, as JSON, and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mtl.base import formatting
from mtl.base.files import replacing, write_json, write_text_atomically
from mtl.comparison import words
from mtl.comparison.columns import Column, columns
from mtl.comparison.comparing import Comparison
from mtl.comparison.differences import SCORE, Difference
from mtl.comparison.page import comparison_page
from mtl.comparison.recommendation import Advice, recommend
from mtl.comparison.scenario_metrics import Figures
from mtl.data.problems import plural
from mtl.evaluation.predictions import guarded
from mtl.reporting.markdown import code, escaped, folded, table
from mtl.reporting.tables import console


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
    yield from ("## Scenarios", words.ranking(comparison), _scenarios(comparison))
    yield from _sharing(comparison)
    yield from _differences(comparison)
    yield from _left_out(comparison)
    yield from ("## How to read this", "\n".join(f"- {escaped(line)}" for line in words.method(comparison)))
    runs = [
        f"- {escaped(row.name)}: {', '.join(code(str(run.folder)) for run in row.scenario.runs)}"
        for row in comparison.rows
    ]
    yield folded("Runs", "\n".join(runs))


def _scenarios(comparison: Comparison) -> str:
    shown = columns(comparison)
    header = [escaped(f"{each.task}: {each.header}" if each.task else each.header) for each in shown]
    rows = [
        [escaped(row.name), _rows(row.scenario.size), str(len(row.scenario.runs)), *(each.shown(row) for each in shown)]
        for row in comparison.rows
    ]
    rows += [
        [escaped(words.job_name(job)), formatting.NOTHING, words.job_state(job), *[formatting.NOTHING] * len(shown)]
        for job in comparison.unfinished
    ]
    return table(["scenario", "training rows", "runs", *header], rows)


def _rows(size: int | None) -> str:
    return formatting.count(size)


def _differences(comparison: Comparison) -> Iterator[str]:
    references = list(dict.fromkeys(each.reference for each in comparison.differences))
    for reference in references:
        found = [each for each in comparison.differences if each.reference == reference]
        yield f"## Against {escaped(reference)}"
        yield _difference_table([each for each in found if each.measure == SCORE])
        by_task = [each for each in found if each.measure != SCORE]
        if by_task:
            yield folded("By task", _difference_table(by_task))


def _difference_table(found: Sequence[Difference]) -> str:
    rows = [
        [
            escaped(each.scenario),
            escaped(
                words.MEASURE[each.measure] if each.task is None else f"{each.task}, {words.MEASURE[each.measure]}"
            ),
            words.signed(each.value),
            words.interval(each),
            words.p_value(each.p_adjusted),
            words.verdict(each),
        ]
        for each in found
    ]
    return table(["scenario", "measure", "difference", "95 % interval", "p, adjusted", "verdict"], rows, left=2)


def _sharing(comparison: Comparison) -> Iterator[str]:
    if not comparison.sharing:
        return
    rows = [
        [
            escaped(row.scenario),
            escaped(row.task),
            row.measure,
            row.alone,
            row.together,
            words.signed(row.difference.value),
            words.interval(row.difference),
            words.p_value(row.difference.p_adjusted),
            words.verdict(row.difference),
        ]
        for row in words.sharing(comparison)
    ]
    header = ["scenario", "task", "measure", "alone", "shared", "difference", "95 % interval", "p, adjusted", "verdict"]
    yield from ("## Sharing the encoder", words.SHARING, table(header, rows, left=3))


def _left_out(comparison: Comparison) -> Iterator[str]:
    if not (comparison.unfinished or comparison.unreadable or comparison.notes):
        return
    yield "## Not in the table"
    lines = [f"- {escaped(line)}" for line in words.left_out(comparison)]
    yield "\n".join(lines)


_SCENARIO = 30  # characters of a scenario's name in a line
_NO_COST = ("score", "validation", "encoding_seconds")  # the last one is in the training time
_THESE_RUNS = "1 seed"  # in place of `words.THESE_RUNS`, which takes too many columns


def blocks(comparison: Comparison, advice: Sequence[Advice]) -> Iterator[RenderableType]:
    """Yield what to print, in order.

    Args:
        comparison: The comparison.
        advice: What follows from it.
    """
    yield _ranking(comparison)
    shown = columns(comparison)
    for task in comparison.rare:
        yield _table(comparison, task, [each for each in shown if each.task == task])
    yield from _sharing_shown(comparison)
    cost = _table(comparison, "Cost", [each for each in shown if each.task is None and each.key not in _NO_COST])
    cost.caption = words.COST
    yield cost
    for each in advice:
        yield Text.assemble((f"{each.question}: ", "bold"), (formatting.one_line(each.answer), "bold green"))
        yield Padding(Text(formatting.one_line(" ".join(each.reasons))), (0, 0, 1, 2))
    for line in words.left_out(comparison):
        yield Text(formatting.one_line(line), style="yellow")


def _ranking(comparison: Comparison) -> Table:
    validated = any(row.validation for row in comparison.rows)
    counts = {len(row.scenario.runs) for row in comparison.rows}
    counted = len(counts) > 1  # otherwise the caption says it, and names have more room
    header = [*(["runs"] if counted else []), *(["val."] if validated else [])]
    header += ["score", "to the\nbest", "95 % interval", "verdict"]
    table = _empty("Scenarios", header)
    for row in comparison.rows:
        found = comparison.difference(row.name, comparison.best.name)
        against = [words.signed(found.value), words.interval(found)] if found else ["", ""]
        last = "best" if row is comparison.best else _verdict(found)
        validation = [formatting.score(row.validation.mean if row.validation else None)] if validated else []
        runs = [str(len(row.scenario.runs))] if counted else []
        cells = [*runs, *validation, words.spread(row.score), *against, last]
        table.add_row(_name(row.name), *cells, style="bold" if row is comparison.best else None)
    for job in comparison.unfinished:
        cells = [*["" for _ in header[:-1]], words.job_state(job)]
        table.add_row(_name(words.job_name(job)), *cells, style="yellow")
    runs_each = "" if counted else f"{plural(min(counts), 'run')} of each scenario. "
    notes = [f"{runs_each}score: macro-F1, mean of {words.both(comparison.tasks)}. {words.ranking(comparison)}"]
    if any(words.verdict(each) == words.THESE_RUNS for each in comparison.differences):
        notes.append(f"{_THESE_RUNS}: {words.ONE_SEED}")
    table.caption = "\n".join(notes)
    return table


def _verdict(difference: Difference | None) -> str:
    verdict = words.verdict(difference)
    return {words.NOISE: "noise", words.THESE_RUNS: _THESE_RUNS}.get(verdict, verdict)


def _sharing_shown(comparison: Comparison) -> Iterator[Table]:
    rows = [row for row in words.sharing(comparison) if row.difference.measure == "macro_f1"]
    if not rows:
        return
    table = _empty("Sharing the encoder", ["task", "alone", "shared", "difference", "95 % interval", "verdict"])
    for row in rows:
        against = [words.signed(row.difference.value), words.interval(row.difference)]
        table.add_row(_name(row.scenario), _name(row.task), row.alone, row.together, *against, _verdict(row.difference))
    table.caption = "macro-F1 of each task trained alone and with the others, over the same test rows"
    yield table


def _table(comparison: Comparison, title: str, shown: Sequence[Column]) -> Table:
    table = _empty(title, [_header(each.header) for each in shown])
    for row in comparison.rows:
        table.add_row(_name(row.name), *(each.shown(row) for each in shown))
    return table


def _header(name: str) -> str:
    return name.replace(" ", "\n", 1) if len(name) > 10 else name


def _empty(title: str, figures: Sequence[str]) -> Table:
    table = Table(
        title=Text(formatting.one_line(title)),
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("scenario", overflow="fold", max_width=_SCENARIO)
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True, vertical="top")
    return table


def _name(name: str) -> Text:
    return Text(formatting.one_line(name))


def show(comparison: Comparison) -> None:
    """Print the comparison."""
    out = console()
    for block in blocks(comparison, recommend(comparison)):
        out.print(block)
        if not isinstance(block, str) and hasattr(block, "add_row"):
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
