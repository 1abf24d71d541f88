"""A comparison in the terminal, within 80 columns: the ranking, each task, the cost, and what follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mtl.base import formatting
from mtl.comparison import words
from mtl.comparison.columns import Column, columns
from mtl.comparison.comparing import Comparison
from mtl.comparison.differences import Difference
from mtl.comparison.recommendation import Advice
from mtl.data.problems import plural

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
    yield from _sharing(comparison)
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


def _sharing(comparison: Comparison) -> Iterator[Table]:
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
