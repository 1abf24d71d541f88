"""Reliability diagrams: how often a model is right where it says that it is so and so sure.

Guo et al., On Calibration of Modern Neural Networks (2017), https://arxiv.org/abs/1706.04599, figure 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl.evaluation.calibration import ece
from mtl.evaluation.records import ReliabilityBin
from mtl.evaluation.run_summary import RARE_SUPPORT
from mtl.reporting.figures import style

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


_STYLES = ((style.VERMILLION, "o", "--"), (style.BLUE, "s", "-"))


def draw_reliability(path: str | Path, bins: Mapping[str, Sequence[ReliabilityBin]]) -> None:
    """Draw accuracy over confidence, and below it how many rows each bin has.

    Bins of few rows are hollow, with their number beside them.

    Args:
        path: The file to write or to replace, ``.svg`` or ``.png``.
        bins: One or two sets of bins by name, such as ``before`` and ``after`` temperature scaling.
    """
    with style.picture(path, 5.6, 5.4) as figure:
        curve, rows = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        (ideal,) = curve.plot([0, 1], [0, 1], color=style.FAINT, linewidth=1, linestyle=":")
        lines: dict[str, Artist] = {"confidence = accuracy": ideal}
        single = len(bins) == 1
        for (name, found), (colour, marker, line) in zip(bins.items(), _STYLES[single:], strict=False):
            label = f"{style.shown(name)} (ECE {ece(list(found)):.3f})"
            lines[label] = _draw_bins(curve, rows, found, (colour, marker, line))
        style.share_axis(curve, "x")
        style.share_axis(curve, "y")
        curve.set_ylabel("share of rows predicted right")
        rows.set_ylabel("rows")
        rows.set_xlabel("confidence: probability of the predicted class")
        rows.locator_params(axis="y", nbins=3, integer=True)
        style.legend(curve, lines, "upper left")


def _draw_bins(curve: Axes, rows: Axes, bins: Sequence[ReliabilityBin], look: tuple[str, str, str]) -> Artist:
    colour, marker, line = look
    found = [each for each in bins if each.count]
    x, y = [each.confidence for each in found], [each.accuracy for each in found]
    drawn = curve.plot(x, y, color=colour, marker=marker, linestyle=line, markersize=5, clip_on=False, zorder=3)
    rare = [each for each in found if each.count < RARE_SUPPORT]
    faint: dict[str, Any] = {"marker": marker, "markersize": 5, "linestyle": "none", "clip_on": False, "zorder": 4}
    at = [each.confidence for each in rare], [each.accuracy for each in rare]
    curve.plot(*at, color=colour, markerfacecolor="white", markeredgecolor=colour, alpha=0.6, **faint)
    for each in rare:
        curve.annotate(
            f"{each.count}",
            (each.confidence, each.accuracy),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color=style.FAINT,
        )
    starts, widths = [each.lower for each in bins], [each.upper - each.lower for each in bins]
    counts = [each.count for each in bins]
    rows.bar(starts, counts, widths, align="edge", facecolor="none", edgecolor=colour, linewidth=1.2, linestyle=line)
    return drawn[0]
