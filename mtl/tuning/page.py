"""The page of a search: the best settings on the first screen, then trials, importances and charts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from mtl.base.formatting import duration
from mtl.comparison import words
from mtl.comparison.comparing import Comparison
from mtl.comparison.recommendation import Advice
from mtl.reporting import charts
from mtl.reporting.charts import GREY
from mtl.reporting.page import Chart, render
from mtl.reporting.tables import Table
from mtl.tuning.search import Search, shown
from mtl.tuning.space import Choices

_MOST_CHARTS = 12


def tuning_page(
    search: Search, front: Sequence[FrozenTrial], tables: Sequence[Table], comparison: Comparison | None
) -> str:
    """Return the page, with the tables of the trials and, if there is one, of the importances."""
    important = [str(row[0]) for row in tables[1].rows] if len(tables) > 1 else list(search.space.distributions)
    progress = [_history(search), _cost(search, front)]
    settings = list(_settings(search, important[:_MOST_CHARTS]))
    return render(
        "tuning.html",
        "Which settings?",
        [*progress, *settings],
        facts=f"Search space {search.space.name}, {len(search.ended())} trials. {tables[0].note}",
        advice=[_best(search, front[0]), *([] if comparison is None else [_tested(comparison)])],
        progress=progress,
        settings=settings,
        tables=tables,
    )


def _best(search: Search, best: FrozenTrial) -> Advice:
    reasons = [f"Macro-F1 on validation {best.values[0]:.4f}, trained in {duration(best.user_attrs['seconds'])}."]
    if (untuned := search.untuned) is not None:
        reasons.append(f"Without tuning (trial {untuned.number}): {untuned.values[0]:.4f}.")
    reasons += [f"{key}={shown(value)}" for key, value in best.params.items()]
    return Advice("Best by validation", f"trial {best.number}", reasons)


def _tested(comparison: Comparison) -> Advice:
    """Return what the best settings came to on the test rows, with other seeds than that of the search."""
    tuned = next(row for row in comparison.rows if row.scenario.runs[0].folder.name.startswith("tuned-"))
    reasons = [f"{tuned.name}: macro-F1 {words.spread(tuned.score)} over {len(tuned.scenario.runs)} other seeds."]
    for row in comparison.rows:
        if row is not tuned:
            reasons.append(f"Without tuning ({row.name}): {words.spread(row.score)}.")
            for one, other, turned in ((tuned, row, False), (row, tuned, True)):
                if (difference := comparison.difference(one.name, other.name)) is not None:
                    value = -difference.value if turned else difference.value
                    evidence = words.evidence(difference, turned=turned)
                    reasons.append(f"Tuned minus untuned: {words.signed(value)} ({evidence}).")
                    break
    return Advice("Measured once on the test rows", words.spread(tuned.score), reasons)


def _history(search: Search) -> Chart:
    ended = sorted(search.ended(TrialState.COMPLETE, TrialState.PRUNED), key=lambda trial: trial.number)
    scored = [(trial, trial.values[0]) for trial in ended if trial.values]
    best = accumulate((value if t.state == TrialState.COMPLETE else 0.0 for t, value in scored), max)
    rows = [
        {
            "trial": trial.number,
            "score": value,
            "best": highest,
            "state": "completed" if trial.state == TrialState.COMPLETE else "stopped early",
        }
        for (trial, value), highest in zip(scored, best, strict=True)
    ]
    x = {"field": "trial", "type": "quantitative", "title": "trial", "axis": {"format": ",d"}}
    y = {"field": "score", "type": "quantitative", "title": "macro-F1 on validation", "scale": {"zero": False}}
    colours = {"domain": ["completed", "stopped early"], "range": ["#0072b2", GREY]}
    state = {"field": "state", "type": "nominal", "title": None}
    layers = [
        {
            "transform": [{"filter": "datum.best > 0"}],
            "mark": {"type": "line", "interpolate": "step-after", "color": GREY},
            "encoding": {"x": x, "y": {**y, "field": "best"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 50, "opacity": 1},
            "encoding": {"x": x, "y": y, "color": {**state, "scale": colours}, "shape": state},
        },
    ]
    told = "The line is the best score so far; a trial that was stopped early has its last score."
    return Chart("chart-history", "Trials", told, {"height": 260, "data": {"values": rows}, "layer": layers})


def _cost(search: Search, front: Sequence[FrozenTrial]) -> Chart:
    best = {trial.number for trial in front}
    rows = [
        {
            "name": f"trial {trial.number}",
            "label": f"trial {trial.number}" if trial.number in best else "",
            "seconds": trial.user_attrs["seconds"],
            "time": duration(trial.user_attrs["seconds"]),
            "score": trial.values[0],
            "shown": f"{trial.values[0]:.4f}",
            "front": trial.number in best,
        }
        for trial in search.ranked
    ]
    told = "Nothing cheaper has a higher validation score than the trials on the dashed line."
    return charts.quality_and_cost("chart-cost", rows, told if search.costs else "The named trial is the best one.")


def _settings(search: Search, keys: Sequence[str]) -> Iterator[Chart]:
    """Yield the score of each trial against the value of a tuned key, the most important key first."""
    y = {"field": "score", "type": "quantitative", "title": "macro-F1 on validation", "scale": {"zero": False}}
    mark = {"type": "point", "filled": True, "size": 50, "opacity": 0.8}
    for at, key in enumerate(keys):
        distribution = search.space.distributions[key]
        is_choice = isinstance(distribution, Choices)
        x: dict[str, Any] = {"field": "value", "type": "nominal" if is_choice else "quantitative", "title": key}
        if not isinstance(distribution, Choices):
            x["scale"] = {"type": "log" if distribution.log else "linear", "zero": False}
        rows = [
            {"value": shown(value) if is_choice else value, "score": trial.values[0], "trial": trial.number}
            for trial in search.ranked
            if (value := trial.params[key]) is not None or is_choice
        ]
        tip = [{"field": name, "type": "nominal"} for name in ("trial", "value", "score")]
        spec = {"height": 220, "data": {"values": rows}, "mark": mark, "encoding": {"x": x, "y": y, "tooltip": tip}}
        yield Chart(f"chart-key-{at}", key, f"The score of each completed trial against {key}.", spec)
