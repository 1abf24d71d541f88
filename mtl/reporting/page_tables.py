"""Tables of a page: sortable by their headings, searchable where they are long, shaded where they are matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mtl.base.formatting import NOTHING
from mtl.reporting.safe import text

_SHADES = 9  # classes shade-0 … shade-9 of the style sheet


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands in a cell, the number to sort it by, and its kind for the style sheet."""

    shown: str
    value: float | None = None
    kind: str = ""


def table(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[Cell | str]],
    *,
    search: str = "",
    marked: int | None = None,
) -> str:
    """Return a sortable table that scrolls within its own frame.

    Args:
        caption: What it shows.
        header: The names of the columns; the first is that of the row headings.
        rows: The cells of each row.
        search: The label of a search box above it; none without.
        marked: The row to set off.
    """
    figures = [all(_is_figure(row[at]) for row in rows) for at in range(len(header))]
    head = "".join(
        f'<th scope="col" aria-sort="none"{_kind("figure" if figures[at] else "")}>'
        f'<button type="button">{text(name)}<span aria-hidden="true" class="arrow"></span></button></th>'
        for at, name in enumerate(header)
    )
    body = "\n".join(_row(row, figures, marked == at) for at, row in enumerate(rows))
    box = (
        f'<p class="search"><label>{text(search)} <input type="search" autocomplete="off"></label> '
        f'<output aria-live="polite">{len(rows):,} rows</output></p>'
        if search
        else ""
    )
    return (
        f'<div class="sortable">{box}<div class="scroll" role="region" tabindex="0" aria-label="{text(caption)}">'
        f"<table><caption>{text(caption)}</caption><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
        "</div></div>"
    )


def _row(row: Sequence[Cell | str], figures: Sequence[bool], marked: bool) -> str:
    cells = []
    for at, (cell, figure) in enumerate(zip(row, figures, strict=True)):
        each = cell if isinstance(cell, Cell) else Cell(cell)
        value = "" if each.value is None else f' data-value="{each.value!r}"'
        kind = _kind(*(name for name in ("figure" if figure else "", each.kind) if name))
        tag = 'th scope="row"' if at == 0 else "td"
        cells.append(f"<{tag}{kind}{value}>{text(each.shown)}</{tag.partition(' ')[0]}>")
    return f"<tr{_kind('marked' if marked else '')}>{''.join(cells)}</tr>"


def matrix(
    caption: str, labels: Sequence[str], counts: Sequence[Sequence[float]], columns: Sequence[str] | None = None
) -> str:
    """Return a confusion matrix: counts, shaded by their share of the true class.

    Args:
        caption: Whose.
        labels: The classes.
        counts: A row for each true class, in it a number for each column.
        columns: The predicted classes, if they are others than ``labels``; then the table is a dense one, with upright
            headings and empty cells in place of zeros.
    """
    dense = columns is not None
    head = "".join(f'<th scope="col"><span>{text(label)}</span></th>' for label in columns or labels)
    rows = []
    for at, (label, row) in enumerate(zip(labels, counts, strict=True)):
        total = sum(row) or 1
        cells = "".join(
            f'<td class="shade-{round(_SHADES * count / total)}{" right" if column == at else ""}">'
            f"{_count(count, total, dense)}</td>"
            for column, count in enumerate(row)
        )
        rows.append(f'<tr><th scope="row">{text(label)}</th>{cells}</tr>')
    corner = '<td class="corner">true ↓ predicted →</td>'
    return (
        f'<div class="scroll matrix{" dense" if dense else ""}" role="region" tabindex="0" '
        f'aria-label="{text(caption)}"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{corner}{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
        "</table></div>"
    )


def _count(count: float, total: float, dense: bool) -> str:
    if dense:
        return f"{count:g}" if count else ""
    return f"{count:g}{_percent(count, total)}"


def _percent(count: float, total: float) -> str:
    return f"<small> {100 * count / total:.0f} %</small>" if count else ""


def _is_figure(cell: Cell | str) -> bool:
    return isinstance(cell, Cell) and (cell.value is not None or cell.shown == NOTHING)


def _kind(*names: str) -> str:
    found = " ".join(name for name in names if name)
    return f' class="{found}"' if found else ""
