"""What all pictures share: a canvas, colours that everybody can tell apart, and texts that are no markup."""

from __future__ import annotations

import logging
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from mtl.base import formatting
from mtl.base.files import replacing

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito (2008), https://jfly.uni-koeln.de/color/: safe for every kind of colour blindness.
BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
GREEN: Final = "#009E73"
VERMILLION: Final = "#D55E00"
PURPLE: Final = "#CC79A7"
SKY: Final = "#56B4E9"
BLACK: Final = "#000000"
CYCLE: Final = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)

TEXT: Final = "#222222"
FAINT: Final = "#6B6B6B"  # contrast 5.3 on white: enough for small text
GRID: Final = "#E4E4E4"
WIDTH: Final = 9.5
"""Inches of a picture over the whole width of a report: 912 pixels in a browser."""

_SETTINGS: Final[Any] = {  # matplotlib types each key, which no dictionary of ours can
    "text.parse_math": False,  # a dollar sign in a label is one
    "text.usetex": False,
    "svg.fonttype": "none",  # text stays text: it can be searched, selected, and read out
    "svg.hashsalt": "mtl",  # else the ids of clip paths are random
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.edgecolor": "#9A9A9A",
    "axes.labelcolor": TEXT,
    "axes.titlecolor": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "text.color": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.06,
}
# What XML 1.0 cannot hold, even escaped.
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@contextmanager
def picture(path: str | Path, width: float, height: float) -> Iterator[Figure]:
    """Lend an empty figure and write it to ``path``, whole or not at all.

    The settings of the user's own matplotlib take no part, and afterwards they are as before.

    Args:
        path: The file; its suffix tells the format: ``.svg`` or ``.png``.
        width: Inches.
        height: Inches.
    """
    with _quiet_fonts():
        import matplotlib
        from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        # The text stays text, and who looks at it may have the glyphs.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        metadata = {"Date": None} if Path(path).suffix == ".svg" else None
        with replacing(path) as temporary:
            figure.savefig(temporary, metadata=metadata, facecolor="white", dpi=144)


@contextmanager
def _quiet_fonts() -> Iterator[None]:
    """Keep what matplotlib says of its list of fonts, which it makes when it is first imported, out of the output."""
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def shown(text: str, most: int = 32) -> str:
    """Return a data text for a picture: in one line of at most about ``most`` characters, without what XML forbids."""
    return _NOT_IN_XML.sub("\ufffd", formatting.shortened(text, _fitting(text, most)))


def _fitting(text: str, most: int) -> int:
    """Return how many characters of the text are as wide as ``most`` Latin letters."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return max(8, round(most * len(text) / (len(text) + wide))) if wide else most


def told_apart(names: Sequence[str], most: int) -> list[str]:
    """Return data texts as `shown` does, cut so that all of them still differ, see `formatting.told_apart`."""
    short = formatting.told_apart(names, min((_fitting(name, most) for name in names), default=most))
    return [_NOT_IN_XML.sub("\ufffd", short[name]) for name in names]


def wrapped(text: str, width: int, lines: int = 2) -> str:
    """Return a data text as `shown` does, in up to ``lines`` lines of ``width`` characters."""
    return "\n".join(textwrap.wrap(shown(text, width * lines), width, max_lines=lines, placeholder="…")) or " "


def legend(axes: Axes, lines: Mapping[str, Artist], loc: Literal["best", "upper left"] = "best") -> None:
    """Draw a legend with every name, also one that begins with an underscore, which matplotlib would leave out."""
    drawn = axes.legend(list(lines.values()), [str(at) for at in range(len(lines))], loc=loc)
    for text, name in zip(drawn.get_texts(), lines, strict=True):
        text.set_text(name)


def share_axis(axes: Axes, axis: Literal["x", "y"]) -> None:
    """Let an axis run from 0 to 1 with a tick at each fifth."""
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    if axis == "x":
        axes.set_xlim(0, 1)
        axes.set_xticks(ticks)
    else:
        axes.set_ylim(0, 1)
        axes.set_yticks(ticks)
