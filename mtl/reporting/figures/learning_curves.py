"""Learning curves: what more training rows of a class bring it, a panel for each class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtl.reporting.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 3
_PANEL_HEIGHT = 2.1  # inches

Curve = tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]
"""Rows ``(K,)``, ascending; the mean score there, and the lower and the upper end of its interval, each ``(K,)``."""


def draw_learning_curves(
    path: str | Path,
    curves: Mapping[str, Curve],
    *,
    score: str = "F1",
    rows: str = "training rows of the class",
    interval: str = "",
) -> None:
    """Draw one panel for each class: its score over the number of training rows, with an interval around it.

    All panels share the axis of the score; each has its own axis of rows, since a rare class has few.

    Args:
        path: The file to write or to replace, ``.svg`` or ``.png``.
        curves: The curve of each class, in the order to show; values that are not finite leave a gap.
        score: What is measured, from 0 to 1.
        rows: What the rows are.
        interval: What the band is, such as ``95 % interval over 5 subsets``; shown above the panels.
    """
    columns = min(_COLUMNS, max(1, len(curves)))
    lines = max(1, math.ceil(len(curves) / columns))
    width = style.WIDTH * columns / _COLUMNS + (0.5 if columns < _COLUMNS else 0)
    with style.picture(path, width, 0.6 + _PANEL_HEIGHT * lines) as figure:
        grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
        panels = list(grid.flat)
        for axes, (name, curve) in zip(panels, curves.items(), strict=False):
            _panel(axes, name, curve)
        for axes in panels[len(curves) :]:
            axes.remove()
        for axes in grid[:, 0]:
            axes.set_ylabel(score)
        figure.supxlabel(rows, fontsize=9.5, color=style.TEXT)
        if interval:
            figure.suptitle(f"Band: {interval}", fontsize=9, color=style.FAINT, ha="right", x=0.995)


def _panel(axes: Axes, name: str, curve: Curve) -> None:
    count, mean, low, high = (np.asarray(values, dtype=np.float64) for values in curve)
    axes.set_title(style.wrapped(name, 28), fontsize=9)
    style.share_axis(axes, "y")
    if not np.isfinite(mean).any():
        axes.text(0.5, 0.5, "no figures", transform=axes.transAxes, ha="center", va="center", color=style.FAINT)
        axes.set_xticks([])
        return
    axes.fill_between(count, low, high, color=style.BLUE, alpha=0.18, linewidth=0)
    axes.plot(count, mean, color=style.BLUE, marker="o", markersize=4, clip_on=False, zorder=3)
    axes.set_xlim(0, float(count.max()) * 1.06 or 1.0)
    axes.locator_params(axis="x", nbins=4, integer=True)
