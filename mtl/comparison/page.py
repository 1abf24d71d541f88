"""The page of a comparison: the answer on the first screen, then the figures and charts behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mtl.base import formatting
from mtl.comparison import charts as charts
from mtl.comparison import words
from mtl.comparison.columns import Column, columns
from mtl.comparison.comparing import Comparison
from mtl.comparison.differences import Difference
from mtl.comparison.recommendation import Advice
from mtl.comparison.scenario_metrics import Figures
from mtl.evaluation.predictions import Predictions
from mtl.reporting.maps import maps
from mtl.reporting.page import Cell, Chart, folded, matrix, paragraph, render, section, table, text
from mtl.reporting.run_page import errors_table

MATRIX_CLASSES = 20


def comparison_page(comparison: Comparison, advice: Sequence[Advice]) -> str:
    """Return the page.

    Args:
        comparison: The comparison.
        advice: What follows from it.
    """
    drawn: list[Chart] = []

    def show(*found: Chart | None) -> str:
        kept = [chart for chart in found if chart is not None]
        drawn.extend(kept)
        return f'<div class="charts">{"".join(chart.render() for chart in kept)}</div>' if kept else ""

    sections = [
        section("scenarios", "All scenarios", _scenarios(comparison), *_left_out(comparison)),
        section(
            "cost", "Quality, cost, and what is noise", show(charts.cost(comparison), charts.intervals(comparison))
        ),
        *_sharing(comparison),
        section("differences", "Differences in figures", *_differences(comparison)),
        section("classes", "F1 of each class", show(*charts.class_bars(comparison))),
        section("curves", "Training", show(*charts.training(comparison), charts.learning_curve(comparison))),
        section("reliability", "How far the probabilities can be trusted", show(*charts.reliability(comparison))),
        section("confusions", "Confusions", *_confusions(comparison)),
        section("maps", f"Embeddings of {comparison.best.name}", *_maps(comparison, show)),
        section("mistakes", f"Mistakes of {comparison.best.name}", _errors(comparison)),
        section("method", "How to read this", *map(paragraph, words.method(comparison)), _runs(comparison)),
    ]
    return render("Which scenario?", _lead(comparison, advice), sections, drawn)


def _lead(comparison: Comparison, advice: Sequence[Advice]) -> str:
    cards = "".join(
        f'<li class="card{" first" if at == 0 else ""}"><h2>{text(each.question)}</h2>'
        f'<p class="answer">{text(each.answer)}</p>{"".join(map(paragraph, each.reasons))}</li>'
        for at, each in enumerate(advice)
    )
    runs = sum(len(row.scenario.runs) for row in comparison.rows)
    rows = ", ".join(
        f"{task} {len(outcomes.predictions):,}" for task, outcomes in comparison.best.scenario.runs[0].outcomes.items()
    )
    told = f"{len(comparison.rows)} scenarios, {runs} runs, figures of the test rows: {rows}."
    return f'{paragraph(told, words.ranking(comparison), kind="facts")}<ul class="cards">{cards}</ul>'


def _scenarios(comparison: Comparison) -> str:
    shown = columns(comparison)
    header = [
        "scenario",
        "to the best",
        *(f"{each.task}: {each.header}" if each.task else each.header for each in shown),
    ]
    sized = len({row.scenario.size for row in comparison.rows}) > 1
    rows: list[list[Cell | str]] = [
        [
            row.name,
            _against(comparison, row),
            *(_figure(column, row) for column in shown),
            Cell(str(len(row.scenario.runs)), len(row.scenario.runs)),
            *([Cell(formatting.count(row.scenario.size), row.scenario.size)] if sized else []),
        ]
        for row in comparison.rows
    ]
    rows += [
        [
            words.job_name(job),
            Cell(words.job_state(job), kind="missing"),
            *[Cell(formatting.NOTHING)] * (len(shown) + 1 + sized),
        ]
        for job in comparison.unfinished
    ]
    header += ["runs", *(["training rows"] if sized else [])]
    best = next(at for at, row in enumerate(comparison.rows) if row is comparison.best)
    return table("The best first; a click on a heading sorts", header, rows, marked=best)


def _against(comparison: Comparison, row: Figures) -> Cell:
    found = comparison.difference(row.name, comparison.best.name)
    if found is None:
        return Cell("best" if row is comparison.best else formatting.NOTHING, 0.0 if row is comparison.best else None)
    kind = _kind(found)
    return Cell(f"{words.signed(found.value)}, {words.verdict(found)}", found.value, kind)


def _kind(difference: Difference) -> str:
    return "real" if words.verdict(difference) == words.REAL else ""


def _figure(column: Column, row: Figures) -> Cell:
    figure = column.figure(row)
    return Cell(column.shown(row), None if figure is None else figure.mean)


def _left_out(comparison: Comparison) -> Iterator[str]:
    for line in words.left_out(comparison):
        yield paragraph(line, kind="warning")


def _differences(comparison: Comparison) -> Iterator[str]:
    for reference in dict.fromkeys(each.reference for each in comparison.differences):
        rows: list[list[Cell | str]] = [
            [
                each.scenario,
                words.MEASURE[each.measure] if each.task is None else f"{each.task}, {words.MEASURE[each.measure]}",
                Cell(words.signed(each.value), each.value),
                Cell(words.interval(each), each.low),
                Cell(words.p_value(each.p_adjusted), each.p_adjusted),
                Cell(words.verdict(each), kind=_kind(each)),
            ]
            for each in comparison.differences
            if each.reference == reference
        ]
        header = ["scenario", "measure", "difference", "95 % interval", "p, adjusted", "verdict"]
        inside = table(f"Each scenario minus {reference}", header, rows, search="Search the differences")
        yield folded(f"Against {reference}", inside)


def _sharing(comparison: Comparison) -> Iterator[str]:
    rows: list[list[Cell | str]] = [
        [
            row.scenario,
            row.task,
            row.measure,
            row.alone,
            row.together,
            Cell(words.signed(row.difference.value), row.difference.value),
            Cell(words.interval(row.difference), row.difference.low),
            Cell(words.p_value(row.difference.p_adjusted), row.difference.p_adjusted),
            Cell(words.verdict(row.difference), kind=_kind(row.difference)),
        ]
        for row in words.sharing(comparison)
    ]
    header = ["scenario", "task", "measure", "alone", "shared", "difference", "95 % interval", "p, adjusted", "verdict"]
    if rows:
        yield section(
            "sharing", "Sharing the encoder", paragraph(words.SHARING, kind="note"), table(words.SHARING, header, rows)
        )


def _confusions(comparison: Comparison) -> Iterator[str]:
    yield paragraph("Rows are true classes, columns predicted ones; counts are summed over the seeds.", kind="note")
    for row in comparison.rows:
        inside = []
        for task in row.tasks:
            labels = list(row.tasks[task].per_class_f1)
            reports = [run.report(task) for run in row.scenario.runs if task in run.outcomes]
            if len(labels) > MATRIX_CLASSES:
                inside.append(paragraph(f"The matrix of the {len(labels)} classes of {task} stands in metrics.json."))
            else:
                counts = np.sum([report.confusion for report in reports], axis=0)
                inside.append(matrix(f"{row.name}, {task}", labels, counts.tolist()))
        yield folded(row.name, *inside, opened=row is comparison.best)


def _maps(comparison: Comparison, show: Callable[..., str]) -> Iterator[str]:
    """Yield the maps of the best scenario's first run, task by task, if it kept them."""
    first = comparison.best.scenario.runs[0]
    for at, task in enumerate(first.outcomes):
        drawn = list(maps(first, task, f"chart-map-{at}"))
        if drawn:
            yield paragraph(f"{task}, seed {first.seed}", kind="note") + show(*drawn)


def _errors(comparison: Comparison) -> str:
    """Return the mistakes of the best scenario's first run, and how many of the other scenarios get them right."""
    first = comparison.best.scenario.runs[0]
    rest: dict[str, list[Predictions]] = {}
    for task, outcomes in first.outcomes.items():
        others = (row for row in comparison.rows if row is not comparison.best)
        found = (
            next((each for each in charts.outcomes_of(row, task) if each.rows == outcomes.rows), None) for row in others
        )
        rest[task] = [each.predictions for each in found if each is not None]
    told = f"Seed {first.seed}; “right elsewhere” counts the other scenarios, by their first seed, that get it right."
    return paragraph(told, kind="note") + errors_table(
        {task: each.predictions for task, each in first.outcomes.items()}, rest
    )


def _runs(comparison: Comparison) -> str:
    items = "".join(
        f"<li>{text(row.name)}: {', '.join(f'<code>{text(run.folder)}</code>' for run in row.scenario.runs)}</li>"
        for row in comparison.rows
    )
    return folded("Runs", f"<ul>{items}</ul>")
