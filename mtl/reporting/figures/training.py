"""Training curves: the loss and each task's validation macro-F1 over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtl.evaluation.records import EpochFigures
from mtl.reporting.figures import style

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_MARKED = 40  # with more epochs the marks would touch each other


def draw_training(path: str | Path, epochs: Sequence[EpochFigures]) -> None:
    """Draw the training loss and, where there was validation, the macro-F1 of each task and its best epoch.

    Args:
        path: The file to write or to replace, ``.svg`` or ``.png``.
        epochs: The figures of each epoch, in order; at least one.
    """
    tasks = list(dict.fromkeys(task for each in epochs for task in each.val_macro_f1))
    with style.picture(path, style.WIDTH if tasks else style.WIDTH / 2, 3.3) as figure:
        panels = figure.subplots(1, 2 if tasks else 1, squeeze=False)[0]
        _line(panels[0], [(each.epoch, each.train_loss) for each in epochs], style.BLUE)
        panels[0].set_title("Training loss")
        panels[0].set_ylim(bottom=0)
        if tasks:
            _draw_scores(panels[1], epochs, tasks)
        for axes in panels:
            axes.set_xlabel("epoch")
            axes.locator_params(axis="x", nbins=10, integer=True, min_n_ticks=1)
            axes.set_xlim(epochs[0].epoch - 0.5, epochs[-1].epoch + 0.5)


def _draw_scores(axes: Axes, epochs: Sequence[EpochFigures], tasks: Sequence[str]) -> None:
    lines: dict[str, Artist] = {}
    for at, task in enumerate(tasks):
        points = [(each.epoch, each.val_macro_f1[task]) for each in epochs if task in each.val_macro_f1]
        colour = style.CYCLE[at % len(style.CYCLE)]
        best_epoch, best = max(points, key=lambda point: point[1])
        lines[f"{style.shown(task)}: best {best:.3f} in epoch {best_epoch}"] = _line(axes, points, colour)
        axes.plot([best_epoch], [best], marker="o", markersize=9, markerfacecolor="none", color=colour, clip_on=False)
    axes.set_title("Validation macro-F1")
    style.share_axis(axes, "y")
    style.legend(axes, lines)


def _line(axes: Axes, points: Sequence[tuple[int, float]], colour: str) -> Artist:
    x, y = zip(*points, strict=True)
    marker = "o" if len(points) <= _MARKED else None
    return axes.plot(x, y, color=colour, marker=marker, markersize=4, clip_on=False)[0]
