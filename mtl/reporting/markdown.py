"""Pieces of GitHub-flavoured Markdown in which data text cannot be taken for markup."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from mtl.base.formatting import one_line, shortened
from mtl.evaluation.run_summary import Picture

# An underscore between letters or digits is none, and very_good stays readable in the source.
_MARKUP = re.compile(r"[\\`*\[\]|~$#]|(?<![^\W_])_|_(?![^\W_])")
_BLOCK_MARK = re.compile(r"^(\d{1,9}(?=[.)])|(?=[-+=]))")  # of a list or of an underlined heading
_AMPERSAND = re.compile(r"&(?=[#A-Za-z])")  # of an entity


def escaped(text: str) -> str:
    """Return data text in one line that renders as itself: no emphasis, code, links, HTML, formulas or table cells."""
    return _BLOCK_MARK.sub(r"\g<1>\\", cell(text))


def cell(text: str) -> str:
    """Return data text as `escaped` does, for the cell of a table, in which no list or heading can begin."""
    return _MARKUP.sub(r"\\\g<0>", _without_html(one_line(text)))


def code(text: str) -> str:
    """Return the text as a code span (not for a table's cell); its fence is longer than any run of backticks in it."""
    text = one_line(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text[:1] == "`" or text[-1:] == "`" else ""
    return f"{fence}{space}{text}{space}{fence}"


def link(path: str) -> str:
    """Return a link to a file beside the document, shown as its path."""
    return f"[{code(path)}](<{quote(path)}>)"


def image(picture: Picture) -> str:
    """Return a picture, with its caption for who cannot see it."""
    return f"![{escaped(picture.caption)}](<{quote(picture.path)}>)"


def quoted(sentence: str, most: int = 160) -> str:
    """Return a sentence of the data in quotation marks, shortened to ``most`` characters."""
    return f"“{escaped(shortened(sentence, most))}”"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a table of finished Markdown cells, its columns padded so that the source reads as a table too.

    The first ``left`` columns are aligned left; those after hold figures, aligned right.
    """
    widths = [max(3, *(len(cell) for cell in column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width if at < left else "-" * (width - 1) + ":" for at, width in enumerate(widths)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    return "\n".join(line(cells) for cells in (header, rule, *rows))


def folded(summary: str, *blocks: str) -> str:
    """Return blocks that a reader unfolds by a click on the summary, plain text that is escaped here."""
    head = f"<details>\n<summary>{_without_html(one_line(summary))}</summary>"
    return "\n\n".join([head, *blocks, "</details>"])


def _without_html(text: str) -> str:
    return _AMPERSAND.sub("&amp;", text).replace("<", "&lt;").replace(">", "&gt;")
