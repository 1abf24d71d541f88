"""The figures of each class as bars: F1, marks for precision and recall, and the rows behind them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl.evaluation.records import ClassReport, TaskReport
from mtl.evaluation.run_summary import weakest
from mtl.reporting.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CLASSES = 40
"""Of more classes those with the lowest F1 are shown."""
_ROW = 0.33  # inches


def draw_class_bars(path: str | Path, report: TaskReport) -> None:
    """Draw F1, precision and recall of each class beside its support, the class with the lowest F1 first.

    Args:
        path: The file to write or to replace, ``.svg`` or ``.png``.
        report: The figures of a task on a split.
    """
    shown = {label: report.per_class[label] for label in weakest(report.per_class, MOST_CLASSES)}
    with style.picture(path, style.WIDTH, 1.1 + _ROW * len(shown)) as figure:
        scores, rows = figure.subplots(1, 2, sharey=True, width_ratios=[4, 1])
        _draw_scores(scores, shown, report.macro_f1)
        _draw_support(rows, shown)
        scores.set_yticks(range(len(shown)), style.told_apart(list(shown), 38))
        scores.set_ylim(len(shown) - 0.5, -0.5)
        if len(shown) < len(report.per_class):
            note = f"{len(shown)} of {len(report.per_class)} classes: those with the lowest F1"
            rows.set_title(note, fontsize=8.5, fontweight="normal", color=style.FAINT, loc="right")
        handles, names = scores.get_legend_handles_labels()
        order = sorted(range(len(names)), key=lambda at: names[at] != "F1")
        figure.legend([handles[at] for at in order], [names[at] for at in order], loc="outside upper left", ncols=4)


def _draw_scores(axes: Axes, shown: Mapping[str, ClassReport], macro_f1: float) -> None:
    there = [at for at, scores in enumerate(shown.values()) if scores.support]
    found = [scores for scores in shown.values() if scores.support]
    axes.barh(there, [each.f1 for each in found], height=0.62, color=style.SKY, label="F1")
    marks: dict[str, Any] = {"markersize": 6, "linestyle": "none", "clip_on": False, "zorder": 3}
    axes.plot([each.precision for each in found], there, marker="D", color=style.BLUE, label="precision", **marks)
    axes.plot([each.recall for each in found], there, marker="o", color=style.VERMILLION, label="recall", **marks)
    axes.axvline(macro_f1, color=style.FAINT, linewidth=1, linestyle="--", label=f"macro-F1 {macro_f1:.3f}", zorder=0.9)
    for at, scores in enumerate(shown.values()):
        if not scores.support:
            axes.text(0.01, at, "no rows", va="center", fontsize=8.5, color=style.FAINT)
    style.share_axis(axes, "x")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _draw_support(axes: Axes, shown: Mapping[str, ClassReport]) -> None:
    support = np.array([scores.support for scores in shown.values()])
    axes.barh(np.arange(len(support)), support, height=0.62, color="#C9C9C9")
    most = max(support.max(initial=0), 1)
    for at, count in enumerate(support.tolist()):
        axes.text(count + most * 0.03, at, f"{count:,}", va="center", fontsize=8.5)
    axes.set_xlim(0, most * 1.35)
    axes.set_xlabel("rows")
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)
