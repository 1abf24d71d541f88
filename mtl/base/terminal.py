"""Print to the terminal: texts appear literally, and no text can change how others appear."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import IO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from mtl.base.errors import printable


class _Console(Console):
    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is to be written; rich's own control codes are segments of their own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def shows_bars() -> bool:
    """Whether standard error shows progress bars: it is a terminal, or the output of a notebook's cell."""
    return os.isatty(2) or type(sys.stderr).__module__.startswith("ipykernel.")


def console(file: IO[str] | None = None) -> Console:
    """Return a console that prints to ``file``, by default standard output; in colour only on a terminal.

    Square brackets are not read as markup, and control characters are escaped.
    """
    return _Console(file=file or sys.stdout, highlight=False, markup=False, emoji=False)
