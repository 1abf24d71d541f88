"""The page of a comparison: the answer on the first screen, then the figures and charts behind it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from mtl.comparison import charts, words
from mtl.comparison.comparing import Comparison
from mtl.comparison.recommendation import Advice
from mtl.comparison.scenario_metrics import Figures
from mtl.comparison.tables import difference_table, scenario_table, sharing_table
from mtl.evaluation.predictions import Predictions
from mtl.reporting.maps import maps
from mtl.reporting.page import Matrix, render
from mtl.reporting.run_page import MATRIX_CLASSES, errors_table
from mtl.reporting.tables import Table


def comparison_page(comparison: Comparison, advice: Sequence[Advice]) -> str:
    """Return the page of a comparison and of the advice that follows from it."""
    best = comparison.best
    first = best.scenario.runs[0]
    rows = ", ".join(f"{task} {len(outcomes.predictions):,}" for task, outcomes in first.outcomes.items())
    runs = {row.name: [run.folder for run in row.scenario.runs] for row in comparison.rows}
    evidence = [chart for chart in (charts.cost(comparison), charts.intervals(comparison)) if chart is not None]
    learning_curve = charts.learning_curve(comparison)
    training = [*charts.training(comparison), *([] if learning_curve is None else [learning_curve])]
    class_bars, reliability = list(charts.class_bars(comparison)), list(charts.reliability(comparison))
    best_maps = {task: list(maps(first, task, f"chart-map-{number}")) for number, task in enumerate(first.outcomes)}
    references = dict.fromkeys(difference.reference for difference in comparison.differences)
    differences = {
        name: difference_table(name, [gap for gap in comparison.differences if gap.reference == name])
        for name in references
    }
    return render(
        "comparison.html",
        "Which scenario?",
        [*evidence, *class_bars, *training, *reliability, *chain.from_iterable(best_maps.values())],
        facts=f"{len(runs)} scenarios, {sum(map(len, runs.values()))} runs, figures of the test rows: {rows}. "
        f"{words.ranking(comparison)}",
        advice=advice,
        scenarios=scenario_table(comparison),
        left_out=words.left_out(comparison),
        evidence=evidence,
        sharing=sharing_table(comparison),
        differences=differences,
        class_bars=class_bars,
        training=training,
        reliability=reliability,
        confusions={row.name: _confusions(row) for row in comparison.rows},
        most_classes=MATRIX_CLASSES,
        best=best.name,
        seed=first.seed,
        maps=best_maps,
        mistakes=_mistakes(comparison),
        method=words.method(comparison),
        runs=runs,
    )


def _confusions(row: Figures) -> dict[str, Matrix]:
    """Return the confusion matrix of each task, summed over the seeds of a scenario."""
    matrices = {}
    for task, figures in row.tasks.items():
        counts = np.sum([run.report(task).confusion for run in row.scenario.runs if task in run.outcomes], axis=0)
        labels = list(figures.per_class_f1)
        matrices[task] = Matrix(f"{row.name}, {task}", labels, dict(zip(labels, counts.tolist(), strict=True)))
    return matrices


def _mistakes(comparison: Comparison) -> Table | None:
    """Return the mistakes of the best scenario's first run, and how many of the other scenarios get them right."""
    others: dict[str, list[Predictions]] = {}
    outcomes = comparison.best.scenario.runs[0].outcomes
    for task, best in outcomes.items():
        for row in comparison.rows:
            same_rows = (other for other in charts.outcomes_of(row, task) if other.rows == best.rows)
            if row is not comparison.best and (other := next(same_rows, None)) is not None:
                others.setdefault(task, []).append(other.predictions)
    return errors_table({task: best.predictions for task, best in outcomes.items()}, others)
