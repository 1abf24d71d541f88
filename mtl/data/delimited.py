"""Reads CSV and TSV files row by row, each with the line in which it starts."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from mtl.base.errors import listed
from mtl.data.lines import text_lines
from mtl.data.problems import Columns, ProblemLog, check_columns, plural
from mtl.data.rows import Cell, Row

_LARGEST_FIELD = 2**31 - 1  # the largest C long of Windows, and about what one Arrow string can hold
_DELIMITERS: Final = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar"}


def read_delimited(path: Path, columns: Columns, log: ProblemLog, *, delimiter: str) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file with a header; blank lines are passed over.

    Args:
        path: The file.
        columns: The columns to read; others are ignored.
        log: Receives the problems; a row with a problem in its structure is not yielded.
        delimiter: What stands between two fields: a comma or a tab.
    """
    with _fields_of_any_size():
        reader = csv.reader(text_lines(path, log), delimiter=delimiter, strict=True)
        rows = _numbered(reader, log)
        line, header = next(rows, (1, None))
        if header is None or not _is_usable(header, columns, delimiter, line, log):
            return
        text_at = header.index(columns.text)
        label_at = None if columns.label is None else header.index(columns.label)
        extra_at = [header.index(name) for name in columns.extra]
        for line, fields in rows:
            if fields is None:
                continue
            if len(fields) == len(header):
                label = Cell.MISSING if label_at is None else fields[label_at]
                yield line, fields[text_at], label, *(fields[at] for at in extra_at)
            else:
                _add_wrong_count(line, fields, header, delimiter, log)


@contextmanager
def _fields_of_any_size() -> Iterator[None]:
    """Lift the limit of the csv module, which is one for the whole process, while a file is read."""
    before = csv.field_size_limit(_LARGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _numbered(reader: Any, log: ProblemLog) -> Iterator[tuple[int, list[str] | None]]:
    """Yield each row with the line in which it starts; ``None`` for a malformed one, after which the reader goes on."""
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            _add_malformed(start, reader.line_num, str(error), log)
            yield start, None
        else:
            if fields:
                yield start, fields


def _is_usable(header: list[str], columns: Columns, delimiter: str, line: int, log: ProblemLog) -> bool:
    """Note what is wrong with the header: columns that are missing, or another delimiter than the suffix tells."""
    others = [name for mark, name in _DELIMITERS.items() if mark != delimiter and mark in header[0]]
    if len(header) == 1 and others and columns.text not in header:
        found = f"a header of one field that contains {others[0]}"
        expected = f"fields with {_DELIMITERS[delimiter]} between them"
        log.add(line, found, expected, "save the file with commas as .csv or with tabs as .tsv")
        return False
    return not check_columns(header, columns, log, line)


def _add_malformed(start: int, end: int, reason: str, log: ProblemLog) -> None:
    if reason == "unexpected end of data":
        found = f"a quoted field that is still open at the end of the file (line {end})"
        log.add(start, found, "a closing quote", 'close the quote, and write a quote within quotes as ""')
    elif "expected after" in reason:
        where = "" if end == start else f" in line {end}"
        expected = "a delimiter or the end of the line"
        log.add(start, f"text right after a closing quote{where}", expected, 'write a quote within quotes as ""')
    else:
        log.add(start, f"a malformed row ({reason})", "fields as RFC 4180 describes them")


def _add_wrong_count(line: int, fields: list[str], header: list[str], delimiter: str, log: ProblemLog) -> None:
    name = _DELIMITERS[delimiter]
    if len(fields) > len(header):
        repair = f"put a field that contains {name} in double quotes"
    else:
        repair = f"add the missing fields, empty ones too, with {name} between each two"
    expected = f"{plural(len(header), 'field')}, as in the header: {listed(header)}"
    log.add(line, plural(len(fields), "field"), expected, repair)
