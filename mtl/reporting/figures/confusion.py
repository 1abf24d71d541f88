"""The confusion matrix as a picture: colours by the share of each true class, counts in the cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtl.reporting.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CLASSES = 30
"""Of more classes those with the most wrong rows are shown."""
_LABEL = 38  # characters
_NO_ROWS = "#F1F1F1"


def draw_confusion(path: str | Path, labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> None:
    """Draw a confusion matrix: a row for each true class, a column for each predicted one.

    Args:
        path: The file to write or to replace, ``.svg`` or ``.png``.
        labels: The ``C`` class names.
        confusion: Counts ``(C, C)``.
    """
    counts = np.asarray(confusion, dtype=np.int64).reshape(len(labels), len(labels))
    chosen = most_confused(counts)
    names = style.told_apart([labels[at] for at in chosen], _LABEL)
    support = counts.sum(axis=1)[chosen]
    cells = counts[np.ix_(chosen, chosen)]
    side = _cell_side(len(chosen))
    margin = 1.4 + 0.075 * max(map(len, names), default=0)
    slanted = 0.55 + 0.055 * max(map(len, names), default=0)
    with style.picture(path, margin + side * len(chosen) + 0.9, slanted + side * len(chosen) + 0.5) as figure:
        axes = figure.subplots()
        shares = np.divide(cells, np.maximum(support, 1)[:, None])
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
        _label(axes, names, support)
        _count(axes, cells, shares, support, 9.5 if side >= 0.5 else 7.5)
        bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02, shrink=0.6, aspect=16, anchor=(0, 1))
        bar.ax.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        bar.outline.set_visible(False)
        bar.ax.set_title("of the\ntrue class", fontsize=8, fontweight="normal", color=style.FAINT)
        if len(chosen) < len(labels):
            note = f"{len(chosen)} of {len(labels)} classes: those with the most wrong rows"
            axes.set_title(note, fontsize=9, fontweight="normal", color=style.FAINT)


def most_confused(counts: NDArray[np.int64], most: int = MOST_CLASSES) -> NDArray[np.int64]:
    """Return the classes to show, ascending: all, or those with the most wrong rows, both taken for and taken as.

    Args:
        counts: The confusion matrix ``(C, C)``.
        most: How many classes at most.
    """
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    return np.sort(np.argsort(-wrong, kind="stable")[:most])


def _cell_side(classes: int) -> float:
    """Return inches that leave room for four digits."""
    return 0.75 if classes <= 4 else 0.55 if classes <= 12 else 0.4


def _label(axes: Axes, names: Sequence[str], support: NDArray[np.int64]) -> None:
    places = np.arange(len(names))
    axes.set_yticks(places, [f"{name} ({count:,})" for name, count in zip(names, support, strict=True)])
    axes.set_xticks(places, names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true class (rows)")
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    edges = np.arange(len(names) + 1) - 0.5
    axes.hlines(edges, -0.5, len(names) - 0.5, color="white", linewidth=1.2)
    axes.vlines(edges, -0.5, len(names) - 0.5, color="white", linewidth=1.2)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _count(
    axes: Axes, cells: NDArray[np.int64], shares: NDArray[np.float64], support: NDArray[np.int64], size: float
) -> None:
    """Write the counts; cells of 0 stay empty, and a class without rows is grey and says so."""
    for row in range(len(cells)):
        if not support[row]:
            axes.axhspan(row - 0.48, row + 0.48, color=_NO_ROWS, zorder=1.5)
            axes.text((len(cells) - 1) / 2, row, "no rows", ha="center", va="center", fontsize=size, color=style.FAINT)
        for column in np.flatnonzero(cells[row]):
            light = shares[row, column] > 0.55
            weight = "bold" if row == column else "normal"
            axes.text(
                float(column),
                row,
                f"{cells[row, column]:,}",
                ha="center",
                va="center",
                fontsize=size,
                fontweight=weight,
                color="white" if light else style.TEXT,
                in_layout=False,  # measuring a thousand texts takes seconds
            )
