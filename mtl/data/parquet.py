"""Reads Parquet files in batches; a row's line is its number, counted from 1."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mtl.data.problems import Columns, ProblemLog, check_columns
from mtl.data.rows import Cell, Row

_ROWS_PER_BATCH = 1024


def read_parquet(path: Path, columns: Columns, log: ProblemLog) -> Iterator[Row]:
    """Yield the rows of a Parquet file.

    Args:
        path: The file.
        columns: The columns to read; the text as strings, the label as strings, integers or booleans.
        log: Receives the problems; those of a damaged file are one problem.
    """
    try:
        with pq.ParquetFile(path) as file:
            if check_columns(file.schema_arrow.names, columns, log, None) or not _has_types(file, columns, log):
                return
            yield from _rows(file, columns)
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a column's name that is no UTF-8
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        log.add(None, f"a damaged Parquet file ({reason})", "a whole Parquet file", "write or download it again")


def _has_types(file: Any, columns: Columns, log: ProblemLog) -> bool:
    allowed = {"text": (_is_text, "strings"), "label": (_is_label, "strings, integers or booleans")}
    good = True
    for role, name in columns.by_role.items():
        is_allowed, expected = allowed[role]
        found = file.schema_arrow.field(name).type
        if not is_allowed(found):
            log.add(None, f"column {name!r} of type {found}", expected, f"cast it, or set {columns.override(role)}")
            good = False
    return good


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_label(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_label(kind.value_type)
    return bool(_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def _rows(file: Any, columns: Columns) -> Iterator[Row]:
    wanted = list(dict.fromkeys([*columns.by_role.values(), *columns.extra]))
    done = 0
    for batch in file.iter_batches(batch_size=_ROWS_PER_BATCH, columns=wanted):
        texts = _values(batch.column(columns.text))
        labels = repeat(Cell.MISSING) if columns.label is None else _values(batch.column(columns.label))
        extra = [_values(batch.column(name)) for name in columns.extra]
        yield from zip(range(done + 1, done + batch.num_rows + 1), texts, labels, *extra, strict=False)
        done += batch.num_rows


def _values(array: Any) -> list[object]:
    try:
        values: list[object] = array.to_pylist()
    except UnicodeDecodeError:  # Parquet does not check that its strings are UTF-8
        return [_value(cell) for cell in array]
    return values


def _value(cell: Any) -> object:
    try:
        value: object = cell.as_py()
    except UnicodeDecodeError:
        return Cell.UNDECODABLE
    return value
