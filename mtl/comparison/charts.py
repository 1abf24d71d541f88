"""The charts of a comparison, from its figures, predictions and logs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from mtl.base import formatting
from mtl.comparison import words
from mtl.comparison.comparing import Comparison
from mtl.comparison.scenario_metrics import Figures, Spread
from mtl.evaluation.calibration import ece
from mtl.evaluation.runs import RunPredictions, read_curves
from mtl.reporting import charts
from mtl.reporting.charts import points, pooled_bins
from mtl.reporting.page import Chart

MOST_CLASSES = 15
"""Bars of so many classes fit a chart; of more, those with the lowest F1 are shown."""
_LABEL = 32  # characters of a name beside a point
MOST_LINES = 6
"""So many scenarios fit into one chart of lines or bars: the best ones."""


def cost(comparison: Comparison) -> Chart | None:
    """Return the scores against the training time, or None where fewer than two were timed."""
    timed = [(row, row.seconds, row.score) for row in comparison.rows if row.seconds is not None and row.score]
    if len(timed) < 2:
        return None
    front = _front(timed)
    rows = [
        {
            "name": row.name,
            "label": formatting.shortened(row.name, _LABEL),
            "seconds": seconds,
            "time": formatting.duration(row.seconds),
            "score": score.mean,
            "shown": words.spread(score),
            "front": row.name in front,
        }
        for row, seconds, score in timed
    ]
    caption = f"On the test rows nothing cheaper scores above {words.both(front)}, on the dashed line. {words.COST}"
    return charts.quality_and_cost("chart-cost", rows, caption)


def _front(timed: Sequence[tuple[Figures, float, Spread]]) -> list[str]:
    """Return the names of those that score higher than everything that is cheaper, from the cheapest on."""
    names: list[str] = []
    highest = float("-inf")
    for row, _, score in sorted(timed, key=lambda entry: (entry[1], -entry[2].mean)):
        if score.mean > highest:
            names.append(row.name)
            highest = score.mean
    return names


def intervals(comparison: Comparison) -> Chart | None:
    """Return what each scenario has more or less than the best, with its interval; None where there is none."""
    best = comparison.best.name
    pairs = (comparison.difference(row.name, best) for row in comparison.rows)
    differences = [difference for difference in pairs if difference is not None]
    if not differences:
        return None
    rows = [
        {
            "name": difference.scenario,
            "value": difference.value,
            "low": difference.low,
            "high": difference.high,
            "told": f"{words.signed(difference.value)} ({words.interval(difference)})",
            "verdict": words.verdict(difference),
        }
        for difference in differences
    ]
    noise = [difference.scenario for difference in differences if not difference.real]
    caption = f"{words.both(noise)} cannot be told from {best}." if noise else f"Every scenario differs from {best}."
    if any(words.verdict(difference) == words.THESE_RUNS for difference in differences):
        caption += f" {words.THESE_RUNS.capitalize()}: {words.ONE_SEED}"
    names = [difference.scenario for difference in differences]
    return charts.intervals("chart-intervals", f"Against {best}", rows, names, caption)


def class_bars(comparison: Comparison) -> Iterator[Chart]:
    """Yield for each task the F1 of each class, a bar for each scenario."""
    few = comparison.rows[:MOST_LINES]
    for at, task in enumerate(comparison.rare_classes):
        scores: dict[str, list[float]] = defaultdict(list)
        rows = []
        for row in few:
            for label, spread in row.tasks[task].per_class_f1.items() if task in row.tasks else ():
                scores[label].append(spread.mean)
                rows.append({"class": label, "name": row.name, "value": spread.mean, "shown": words.spread(spread)})
        means = {label: float(np.mean(values)) for label, values in scores.items()}
        weakest = sorted(means, key=means.__getitem__)[:MOST_CLASSES]
        classes = [label for label in scores if label in weakest]
        if not classes:
            continue
        caption = f"Hardest: {weakest[0]} ({means[weakest[0]]:.3f} on average)."
        hidden = len(scores) - len(classes)
        caption += f" {hidden} classes with a higher F1 are not shown." if hidden else ""
        rows = [row for row in rows if row["class"] in classes]
        names = [row.name for row in few]
        yield charts.class_bars(f"chart-classes-{at}", task, rows, classes, names, caption + _rest(comparison))


def training(comparison: Comparison) -> Iterator[Chart]:
    """Yield the curves that the runs logged."""
    kinds = {"val/macro_f1": "macro-F1 on validation rows", "train/loss": "training loss"}
    few = comparison.rows[:MOST_LINES]
    logged = {row.name: [read_curves(run.folder) for run in row.scenario.runs] for row in few}
    for name, title in kinds.items():
        rows = []
        for scenario, runs in logged.items():
            points: dict[float, list[float]] = defaultdict(list)
            for curves in runs:
                for epoch, value in curves.get(name, ()):
                    points[epoch].append(value)
            rows += [{"name": scenario, "x": x, "y": float(np.mean(values))} for x, values in sorted(points.items())]
        if rows:
            shown = list(dict.fromkeys(str(row["name"]) for row in rows))
            caption = f"Mean over the seeds, by epoch.{_rest(comparison)}"
            identity = f"chart-{name.replace('/', '-')}"
            yield charts.curves(identity, title[0].upper() + title[1:], rows, shown, "epoch", title, caption)


def learning_curve(comparison: Comparison) -> Chart | None:
    """Return scores against training rows, a line for what differs in size only; None where all have as many."""
    sized = [row for row in comparison.rows if row.scenario.size is not None and row.score is not None]
    if len({row.scenario.size for row in sized}) < 2:
        return None
    rows = [
        {"name": _without_size(row), "x": row.scenario.size, "y": row.score and row.score.mean}
        for row in sorted(sized, key=lambda row: row.scenario.size or 0)
    ]
    names = list(dict.fromkeys(_without_size(row) for row in sized))
    caption = "What more training rows buy each scenario."
    return charts.curves("chart-sizes", "Learning curve", rows, names, "training rows", "score", caption)


def _without_size(row: Figures) -> str:
    return row.name.replace(f", {row.scenario.size:,} rows", "")


def reliability(comparison: Comparison) -> Iterator[Chart]:
    """Yield for each task how far the probabilities of each scenario can be trusted."""
    few = comparison.rows[:MOST_LINES]
    for at, task in enumerate(comparison.rare_classes):
        rows, errors = [], {}
        for row in few:
            predictions = [outcomes.predictions for outcomes in outcomes_of(row, task)]
            bins = pooled_bins(predictions) if predictions else []
            errors[row.name] = ece(bins)
            rows += points(row.name, bins)
        caption = "Below the dashed line a model is surer than it is right. Expected calibration error: "
        caption += ", ".join(f"{name} {error:.3f}" for name, error in errors.items()) + "."
        yield charts.reliability(f"chart-reliability-{at}", task, rows, list(errors), caption + _rest(comparison))


def _rest(comparison: Comparison) -> str:
    left = len(comparison.rows) - MOST_LINES
    return f" The {MOST_LINES} best of {len(comparison.rows)} scenarios." if left > 0 else ""


def outcomes_of(row: Figures, task: str) -> list[RunPredictions]:
    """Return what the runs of a scenario predicted of a task."""
    return [run.outcomes[task] for run in row.scenario.runs if task in run.outcomes]
