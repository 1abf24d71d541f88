"""Charts as Vega-Lite specifications, with colours that people with any colour vision can tell apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mtl.base.formatting import told_apart
from mtl.evaluation.calibration import reliability_bins
from mtl.evaluation.predictions import Predictions
from mtl.evaluation.records import ReliabilityBin
from mtl.evaluation.run_summary import RARE_SUPPORT
from mtl.reporting.page import Chart

BINS = 15


def pooled_bins(predictions: Sequence[Predictions]) -> list[ReliabilityBin]:
    """Return the bins of all predictions of a task together, of one run or of several, which may order classes anew."""
    classes = predictions[0].classes
    columns = [[run.classes.index(name) for name in classes] for run in predictions]
    probabilities = [run.probabilities[:, own] for run, own in zip(predictions, columns, strict=True)]
    labels = [predictions[0].ids(run.labels) for run in predictions]
    return reliability_bins(np.concatenate(probabilities), np.concatenate(labels), BINS)


def points(name: str, bins: Iterable[ReliabilityBin]) -> list[dict[str, str | float | bool]]:
    """Return the points of the line ``name`` of a reliability chart; bins without rows have none."""
    return [
        {
            "name": name,
            "confidence": group.confidence,
            "accuracy": group.accuracy,
            "count": group.count,
            "few": group.count < RARE_SUPPORT,
        }
        for group in bins
        if group.count
    ]


# Without black and yellow: one is lost on a dark page, the other on a white one.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
GREY = "#8a949c"
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")


def scales(names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return Vega-Lite scales of colour and of shape: each name has its own pair, the same one in every chart."""
    count = len(COLOURS)
    colours = [COLOURS[at % count] for at in range(len(names))]
    shapes = [SHAPES[(at + at // count) % count] for at in range(len(names))]
    return {"domain": list(names), "range": colours}, {"domain": list(names), "range": shapes}


Row = Mapping[str, Any]
_TALL = 320
_PADDING = 16
_NARROW = 360  # width of the plot in the narrowest column of a page
_Place = tuple[str, int, int]
_Box = tuple[float, float, float, float]
_PLACES: tuple[_Place, ...] = tuple(
    (align, dx, dy)
    for dy in (14, -12, 27, -25, 40, -38, 53, -51, 66, 79)
    for align, dx in (("left", 4), ("right", 4), ("left", -60))
)
_ON_AXIS = 28  # characters
_IN_LEGEND = 30
_TIMES = (0, 1, 10, 60, 600, 3600, 36000)
_TIME = (
    "datum.value < 60 ? datum.value + ' s' : datum.value < 3600 ? datum.value / 60 + ' min' : datum.value / 3600 + ' h'"
)


def _values(rows: Iterable[Row]) -> dict[str, Any]:
    return {"values": [dict(row) for row in rows]}


def _short(
    rows: Sequence[Row], field: str, names: Sequence[str], most: int, counts: Mapping[str, int] | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return rows and names with the names shortened and their counts added; ``whole`` in a row is the whole name."""
    short = told_apart(names, most)
    if counts is not None:
        short = {name: f"{cut} ({counts[name]:,})" for name, cut in short.items()}
    shortened = [{**row, "whole": row[field], field: short.get(row[field], row[field])} for row in rows]
    return shortened, list(short.values())


def _number(field: str, title: str, **more: Any) -> dict[str, Any]:
    return {"field": field, "type": "quantitative", "title": title, **more}


def _name(field: str, title: str | None = None, **more: Any) -> dict[str, Any]:
    return {"field": field, "type": "nominal", "title": title, **more}


def _layer(mark: Mapping[str, Any], encoding: Mapping[str, Any], where: Any = None) -> dict[str, Any]:
    """Return a layer of all rows, or of those that a filter of Vega-Lite chooses."""
    chosen = {} if where is None else {"transform": [{"filter": where}]}
    return {**chosen, "mark": mark, "encoding": encoding}


def _tooltip(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [_name(field, title) for field, title in pairs]


def quality_and_cost(identity: str, rows: Sequence[Row], summary: str) -> Chart:
    """Return scores against training time, with a line through those that nothing cheaper beats.

    Each row has ``name``, ``label`` (the name as short as it has to be), ``seconds``, ``time`` (written), ``score``,
    ``shown`` (written) and ``front`` (true or false).
    """
    longest = max((row["seconds"] for row in rows), default=0.0)
    times = {"values": [time for time in _TIMES if time <= longest * 1.1], "labelExpr": _TIME}
    x = _number("seconds", "training time", scale={"type": "symlog", "nice": False}, axis=times)
    y = _number("score", "score", scale={"zero": False, "padding": _PADDING})
    tip = _tooltip(("name", "scenario"), ("shown", "score"), ("time", "training time"))
    point = {"x": x, "y": y, "tooltip": tip}
    line = {"type": "line", "interpolate": "step-after", "strokeDash": [5, 4], "color": GREY}
    dot = {"type": "point", "filled": True, "size": 110, "opacity": 1}
    colour = {"condition": {"test": "datum.front", "value": "#0072b2"}, "value": GREY}
    shape = {"condition": {"test": "datum.front", "value": "circle"}, "value": "square"}
    layers = [
        _layer(line, {"x": x, "y": y, "order": {"field": "seconds", "type": "quantitative"}}, "datum.front"),
        _layer(dot, {**point, "color": colour, "shape": shape}),
    ]
    named: dict[_Place, list[str]] = {}
    for row, place in zip(rows, label_places(rows), strict=True):
        if place is not None:
            named.setdefault(place, []).append(row["name"])
    for (align, dx, dy), names in named.items():
        mark = {"type": "text", "fontSize": 12, "style": "plain", "align": align, "dx": dx, "dy": dy}
        layers.append(_layer(mark, {**point, "text": {"field": "label"}}, {"field": "name", "oneOf": names}))
    if sum(map(len, named.values())) < len(rows):
        summary += " Points without a name, for which there is no room, tell it when pointed at."
    return Chart(identity, "Quality against cost", summary, {"height": _TALL, "data": _values(rows), "layer": layers})


def label_places(rows: Sequence[Row]) -> list[_Place | None]:
    """Return where the name of each point stands: alignment and offset in pixels; None where there is no room.

    The places are found for the narrowest chart of a page with two charts in a row, with names side by side in the
    order of their points. In a wider chart the points lie further apart, so no name meets another one there either.
    """
    longest = math.log1p(max(row["seconds"] for row in rows)) or 1.0
    least, most = (pick(row["score"] for row in rows) for pick in (min, max))
    inside = _TALL - 2 * _PADDING
    points = [
        (
            _NARROW * math.log1p(row["seconds"]) / longest,
            _PADDING + inside * ((most - row["score"]) / (most - least) if most > least else 0.5),
        )
        for row in rows
    ]
    taken = [(x, (x - 7, y - 7, x + 7, y + 7)) for x, y in points]
    places: list[_Place | None] = [None] * len(rows)
    for at in sorted(range(len(rows)), key=lambda at: (not rows[at]["front"], -rows[at]["score"])):
        for place in _PLACES:
            box = _box(points[at], place, len(str(rows[at]["label"])))
            others = taken[:at] + taken[at + 1 :]
            within = min(box[0], box[1], _NARROW - box[2], _TALL - box[3]) >= -_PADDING / 2
            if within and all(_stay_apart((points[at][0], box), other) for other in others):
                places[at] = place
                taken.append((points[at][0], box))
                break
    return places


def _box(point: tuple[float, float], place: _Place, characters: int) -> _Box:
    """Return left, top, right and bottom of a name."""
    align, dx, dy = place
    width, (x, y) = 6.6 * characters, point
    left = x + dx - (width if align == "right" else 0)
    return left, y + dy - 7, left + width, y + dy + 7


def _stay_apart(one: tuple[float, _Box], other: tuple[float, _Box]) -> bool:
    """Whether two boxes, each with the place of its point on the axis, lie apart however wide the chart is."""
    (x, box), (other_x, other_box) = one, other
    if box[1] >= other_box[3] or other_box[1] >= box[3]:
        return True
    return (box[2] <= other_box[0] and x <= other_x) or (other_box[2] <= box[0] and other_x <= x)


def intervals(identity: str, title: str, rows: Sequence[Row], order: Sequence[str], summary: str) -> Chart:
    """Return differences with their intervals around zero, the names of ``order`` from the top.

    Each row has ``name``, ``value``, ``low``, ``high``, ``told`` (written) and ``verdict``.
    """
    y = _name("name", sort=list(order))
    shades = {"real": "#d55e00", "real for these runs": "#e69f00", "within noise": GREY}
    shown = [verdict for verdict in shades if any(row["verdict"] == verdict for row in rows)]
    verdicts = {"domain": shown, "range": [shades[verdict] for verdict in shown]}
    tip = _tooltip(("name", "scenario"), ("told", "difference"), ("verdict", "verdict"))
    row = {"y": y, "color": _name("verdict", scale=verdicts), "tooltip": tip}
    x = _number("low", "difference, 95 % interval")
    layers = [
        _layer({"type": "rule", "strokeDash": [4, 3]}, {"x": {"datum": 0, "type": "quantitative"}}),
        _layer({"type": "rule", "strokeWidth": 3}, {**row, "x": x, "x2": {"field": "high"}}),
        _layer({"type": "point", "filled": True, "size": 90, "opacity": 1}, {**row, "x": _number("value", x["title"])}),
    ]
    return Chart(identity, title, summary, {"height": 34 * len(rows), "data": _values(rows), "layer": layers})


def class_bars(
    identity: str,
    title: str,
    rows: Sequence[Row],
    classes: Sequence[str],
    names: Sequence[str],
    summary: str,
    axis: str = "F1",
    counts: Mapping[str, int] | None = None,
) -> Chart:
    """Return a bar for each class, from the top, and each name, such as scenarios, or precision, recall and F1.

    Each row has ``class``, ``name``, ``value`` and ``shown`` (written); ``axis`` is what the bars measure, and
    ``counts`` are numbers to show behind the names of the classes.
    """
    rows, names = _short(rows, "name", names, _IN_LEGEND)
    rows, classes = _short(rows, "class", classes, _ON_AXIS, counts)
    colour, _ = scales(names)
    encoding = {
        "y": _name("class", sort=list(classes), scale={"paddingInner": 0.3}),
        "yOffset": {"field": "name", "type": "nominal", "sort": list(names)},
        "x": _number("value", axis, scale={"domain": [0, 1]}, axis={"tickCount": 5}),
        "color": _name("name", scale=colour, sort=list(names)),
        "tooltip": _tooltip(("whole", "class"), ("name", "what"), ("shown", "value")),
    }
    height = len(classes) * (len(names) * (11 if len(names) > 2 else 15) + 12)
    spec = {"height": height, "data": _values(rows), "mark": "bar", "encoding": encoding}
    return Chart(identity, title, summary, spec)


_MOST_TICKS = 8


def curves(identity: str, title: str, rows: Sequence[Row], names: Sequence[str], x: str, y: str, summary: str) -> Chart:
    """Return a line with points for each name; each row has ``name``, ``x`` and ``y``."""
    rows, names = _short(rows, "name", names, _IN_LEGEND)
    colour, shape = scales(names)
    axis: dict[str, Any] = {"format": ",d"}
    places = {row["x"] for row in rows}
    if len(places) <= _MOST_TICKS:  # Vega would put ticks between a few epochs, and round their numbers
        axis["values"] = sorted(places)
    encoding = {
        "x": _number("x", x, axis=axis),
        "y": _number("y", y, scale={"zero": False}, axis={"format": ".3~g"}),
        "color": _name("name", scale=colour),
        "shape": _name("name", scale=shape),
        "tooltip": [*_tooltip(("whole", "what"), ("x", x)), _number("y", y, format=".3f")],
    }
    mark = {"type": "line", "point": {"filled": True, "size": 50}}
    return Chart(identity, title, summary, {"height": 260, "data": _values(rows), "mark": mark, "encoding": encoding})


def heat_map(
    identity: str,
    title: str,
    labels: Sequence[str],
    cells: Sequence[Sequence[int]],
    supports: Sequence[int],
    summary: str,
) -> Chart:
    """Return a confusion matrix: colours by the share of the true class, counts in the cells that are not 0.

    ``supports`` are the rows of each true class, which may be more than the sum of its cells, a row of counts.
    """
    names = list(told_apart(labels, _ON_AXIS).values())
    true = [f"{name} ({support:,})" for name, support in zip(names, supports, strict=True)]
    rows = [
        {"true": true[row], "predicted": names[column], "count": count, "share": count / max(supports[row], 1)}
        | {"shown": f"{count:,}" if count else "", "right": row == column}
        for row, counts in enumerate(cells)
        for column, count in enumerate(counts)
    ]
    empty = [{"true": name, "shown": "no rows"} for name, support in zip(true, supports, strict=True) if not support]
    side = 64 if len(names) <= 4 else 48 if len(names) <= 12 else 34
    axis = {"labelPadding": 6, "domain": False, "ticks": False, "grid": False}
    y = _name("true", "true class (rows)", sort=true, axis=axis)
    x = _name("predicted", "predicted", sort=names, axis={**axis, "orient": "bottom", "labelAngle": -40})
    colour = {"range": ["#f3f6f9", "#08519c"], "domain": [0, 1]}
    # A gradient's id in the file would depend on the files that the process has written before.
    shares = {"type": "symbol", "orient": "right", "title": "of the class", "format": ".0%", "values": [0, 0.5, 1]}
    dark = {"condition": {"test": "datum.share > 0.55", "value": "white"}, "value": "#1b2329"}
    text = {"type": "text", "fontSize": 12 if side > 40 else 10, "aria": False}
    shade = _number("share", "of the class", scale=colour, legend=shares)
    layers = [
        _layer({"type": "rect", "stroke": "white"}, {"x": x, "y": y, "color": shade}),
        _layer(text, {"x": x, "y": y, "text": {"field": "shown"}, "color": dark}, "datum.count > 0"),
    ]
    if empty:
        grey = {"type": "text", "color": GREY, "fontSize": 11}
        middle = {"value": side * len(names) / 2}
        layers.append({"data": _values(empty), **_layer(grey, {"y": y, "x": middle, "text": {"field": "shown"}})})
    size = {"width": side * len(names), "height": side * len(names)}
    return Chart(identity, title, summary, {**size, "data": _values(rows), "layer": layers})


def learning_curve(name: str, rows: Sequence[Row], x: str, y: str, summary: str) -> Chart:
    """Return a score from 0 to 1 over the number of training rows, with an interval around it.

    Each row has ``x``, ``y``, ``low`` and ``high``; without any the chart says so.
    """
    score = _number("y", y, scale={"domain": [0, 1]}, axis={"tickCount": 5})
    longest = max((row["x"] for row in rows), default=1)
    scale, axis = {"domain": [0, 1.06 * longest]}, {"tickCount": 4, "tickMinStep": 1, "format": ",d"}
    across = _number("x", x, scale=scale, axis=axis)
    ends = {"x": across, "y": {**score, "field": "low"}, "y2": {"field": "high"}}
    layers = [
        _layer({"type": "area", "opacity": 0.18, "color": COLOURS[0]}, ends),
        _layer({"type": "line", "point": True, "color": COLOURS[0]}, {"x": across, "y": score}),
    ]
    if not rows:
        layers = [{"mark": {"type": "text", "text": "no figures", "color": GREY}}]
    return Chart("learning-curve", name, summary, {"height": 150, "data": _values(rows or [{}]), "layer": layers})


def reliability(identity: str, title: str, rows: Sequence[Row], names: Sequence[str], summary: str) -> Chart:
    """Return how often predictions are right against how sure they are, and the diagonal on which both agree.

    Each row is one of `points`: if it has ``few`` predictions it means little, and is faint with its count beside it.
    """
    rows, names = _short(rows, "name", names, _IN_LEGEND)
    colour, shape = scales(names)
    ends = {"x": _number("at", "probability of the predicted class"), "y": _number("at", "share right")}
    diagonal = _layer({"type": "line", "strokeDash": [5, 4], "color": GREY}, ends)
    tip = [
        *_tooltip(("whole", "what")),
        _number("confidence", "mean probability", format=".3f"),
        _number("accuracy", "share right", format=".3f"),
        _number("count", "predictions"),
    ]
    share = {"scale": {"domain": [0, 1]}, "axis": {"tickCount": 5}}
    places = {
        "x": _number("confidence", "probability of the predicted class", **share),
        "y": _number("accuracy", "share right", **share),
    }
    coloured = {**places, "color": _name("name", scale=colour)}
    points = {
        **coloured,
        "shape": _name("name", scale=shape),
        "opacity": {"condition": {"test": "datum.few", "value": 0.3}, "value": 1},
        "tooltip": tip,
    }
    layers = [
        {"data": _values([{"at": 0}, {"at": 1}]), **diagonal},
        _layer({"type": "line", "opacity": 0.4}, coloured),
        _layer({"type": "point", "filled": True, "size": 60}, points),
    ]
    if any(row["few"] for row in rows):  # without a row a layer has no extent, and Vega warns
        counts = {**places, "text": {"field": "count", "type": "quantitative"}}
        mark = {"type": "text", "fontSize": 10, "dy": -9, "color": GREY}
        layers.append(_layer(mark, counts, "datum.few"))
    return Chart(identity, title, summary, {"height": 280, "data": _values(rows), "layer": layers})


def sentence_map(
    identity: str, title: str, rows: Sequence[Row], classes: Sequence[str], summary: str, others: int = 0
) -> Chart:
    """Return sentences as points in a plane, the mistakes set off as crosses with a rim.

    Each row has ``x``, ``y``, ``class``, ``predicted``, ``text`` and ``right`` (true or false). The ``classes`` have a
    colour each; the sentences of ``others``, so many further classes, are grey.
    """
    short = told_apart(classes, _IN_LEGEND)
    rest = f"{others} other {'class' if others == 1 else 'classes'}"
    rows = [
        {**row, "colour": short.get(row["class"], rest), "grey": row["class"] not in short}
        for row in sorted(rows, key=lambda row: row["class"] in short)  # grey ones below
    ]
    colour, _ = scales(list(short.values()))
    if others:
        colour = {"domain": [*colour["domain"], rest], "range": [*colour["range"], GREY]}
    bare = {"axis": {"labels": False, "ticks": False, "grid": False, "domain": False}, "scale": {"zero": False}}
    encoding = {
        "x": _number("x", "first principal component", **bare),
        "y": _number("y", "second principal component", **bare),
        "color": _name("colour", "true class", scale=colour),
        "tooltip": _tooltip(("text", "sentence"), ("class", "label"), ("predicted", "predicted")),
    }
    sizes = {"condition": {"test": "datum.grey", "value": 40}, "value": 110}
    layers = []
    if any(row["right"] for row in rows):
        point = {"type": "point", "filled": True, "size": 32}
        layers.append(_layer(point, {**encoding, "opacity": _if_grey(0.25, 0.55)}, "datum.right"))
    if not all(row["right"] for row in rows):
        cross = {"type": "point", "shape": "cross", "filled": True, "strokeWidth": 1}
        rim = {"size": sizes, "stroke": _if_grey(None, "#777"), "opacity": _if_grey(0.35, 1.0)}
        layers.append(_layer(cross, {**encoding, **rim}, "!datum.right"))
    return Chart(identity, title, summary, {"height": 380, "data": _values(rows), "layer": layers})


def _if_grey(grey: Any, coloured: Any) -> dict[str, Any]:
    return {"condition": {"test": "datum.grey", "value": grey}, "value": coloured}
