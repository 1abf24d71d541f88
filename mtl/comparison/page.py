"""The page of a comparison: the answer on the first screen, then the figures and charts behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mtl.comparison import charts as charts
from mtl.comparison import words
from mtl.comparison.comparing import Comparison
from mtl.comparison.recommendation import Advice
from mtl.comparison.tables import difference_table, scenario_table, sharing_table
from mtl.evaluation.predictions import Predictions
from mtl.reporting.maps import maps
from mtl.reporting.page import Chart, folded, matrix, paragraph, render, section, table, text
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
        section("scenarios", "All scenarios", table(scenario_table(comparison)), *_left_out(comparison)),
        section(
            "cost", "Quality, cost, and what is noise", show(charts.cost(comparison), charts.intervals(comparison))
        ),
        section("sharing", "Sharing the encoder", table(sharing_table(comparison)) if comparison.sharing else ""),
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


def _left_out(comparison: Comparison) -> Iterator[str]:
    for line in words.left_out(comparison):
        yield paragraph(line, kind="warning")


def _differences(comparison: Comparison) -> Iterator[str]:
    for reference in dict.fromkeys(each.reference for each in comparison.differences):
        differences = [each for each in comparison.differences if each.reference == reference]
        inside = table(difference_table(reference, differences), "Search the differences")
        yield folded(f"Against {reference}", inside)


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
