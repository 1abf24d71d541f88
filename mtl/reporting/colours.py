"""Colours that people with any colour vision tell apart (Okabe and Ito, Color Universal Design, 2008), with shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Without black and yellow: one is lost on a dark page, the other on a white one.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
GREY = "#8a949c"
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")


def scales(names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return Vega-Lite scales of colour and of shape that give each name its own pair.

    Args:
        names: In the order of the page; the same list gives the same pairs in every chart.
    """
    count = len(COLOURS)
    colours = [COLOURS[at % count] for at in range(len(names))]
    shapes = [SHAPES[(at + at // count) % count] for at in range(len(names))]
    return {"domain": list(names), "range": colours}, {"domain": list(names), "range": shapes}
