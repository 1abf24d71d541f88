"""From a data file to validated examples: every problem of the file at once, then a memory-mapped table of its rows."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mtl.base.errors import DataError, Problem
from mtl.base.files import content_checksum, expanded
from mtl.data import table
from mtl.data.named_datasets import DatasetSplit
from mtl.data.problems import Columns, ProblemLog, plural
from mtl.data.readers import READERS, TEXT_READERS, Reader, Row, reader_of
from mtl.data.row_checks import ValidRow, valid_rows
from mtl.data.table import Column, IntArray, Table

if TYPE_CHECKING:
    import os

_log = logging.getLogger(__name__)
Missing = Literal["skip", "error"]
"""What to do about a row without a label."""

_MOST_ROWS_PER_BATCH = 8192
_MOST_CHARACTERS_PER_BATCH = 1 << 24


class Examples(Table):
    """Labelled sentences of one data file, or of the part of it that a split takes."""

    @property
    def without_label(self) -> int:
        """How many rows of the file have no label and are therefore no examples."""
        return int(self.column("label").null_count)

    @property
    def labels(self) -> Column:
        """The label of each row."""
        return Column(self.column("label"), self._indices)

    @property
    def extra(self) -> dict[str, Column]:
        """The values of the extra columns that were read, by name; empty texts where a row has none."""
        names = [name for name in self._rows.column_names if name.startswith(table.EXTRA)]
        return {name.removeprefix(table.EXTRA): Column(self.column(name), self._indices) for name in names}

    def distinct_labels(self) -> list[str]:
        """Return the labels that occur, each once, sorted as texts."""
        names: list[str] = sorted(pc.unique(self.column("label").drop_null()).to_pylist())
        if self._indices is None:
            return names
        return [names[code] for code in np.unique(self.label_codes(names)).tolist()]

    def label_codes(self, names: list[str] | tuple[str, ...]) -> IntArray:
        """Return the place of each row's label in ``names``, -1 where it is not among them; shape ``(N,)``."""
        places = pc.index_in(self.column("label"), value_set=pa.array(names, pa.string()))
        codes: IntArray = self._chosen(pc.fill_null(places, -1).to_numpy().astype(np.int64))
        return codes


class _File:
    """A data file as `_load` reads it, by one of the readers, which are named by suffix in lower case."""

    def __init__(self, path: str | os.PathLike[str], readers: Mapping[str, Reader]) -> None:
        self.path = expanded(path)
        self._readers = readers
        self._state = (0, 0)

    def content(self, columns: Columns) -> list[str]:
        del columns
        reader_of(self.path, self._readers)
        self._state = _state(self.path)
        return [content_checksum(self.path), self.path.suffix.lower()]

    def rows(self, columns: Columns, log: ProblemLog) -> Iterator[Row]:
        yield from reader_of(self.path, self._readers)(self.path, columns, log)
        if not log and _state(self.path) != self._state:
            log.add(None, "a file that changed while it was read", "a file at rest", "run again when it is written")


def read_examples(
    path: str | os.PathLike[str] | DatasetSplit,
    text_column: str = "text",
    label_column: str = "label",
    *,
    extra: Sequence[str] = (),
    missing: Missing = "error",
    config_key: str = "",
) -> Examples:
    """Read the labelled sentences of a CSV, TSV, JSON Lines or Parquet file, or of a split of a data set.

    The rows are checked and written once to a cache file, which is then memory-mapped: a file of a million rows needs
    no more memory than a small one, and the next call does not parse it again.

    Args:
        path: The file, whose suffix tells the format, or the split.
        text_column: The column with the sentences.
        label_column: The column with the labels: texts, integers or booleans.
        extra: Further columns to keep, of any values; see `Examples.extra`.
        missing: What to do about a row without a label: ``skip`` leaves it out, ``error`` refuses the file.
        config_key: Where the columns are configured (``data.tasks.sentiment``), for the repairs in error messages.

    Raises:
        DataError: The file cannot be used; it names all problems of the file (the first 20 in full).
    """
    by_role = {"text": text_column, "label": label_column}
    columns = Columns(by_role, config_key, extra=tuple(extra), label_optional=missing == "skip")
    source = path if isinstance(path, DatasetSplit) else _File(path, READERS)
    examples = Examples(source.path, _load(source, columns))
    if not examples.without_label:
        return examples
    labelled = np.flatnonzero(examples.column("label").is_valid().to_numpy())
    if not len(labelled):
        found = f"no label in the column {label_column!r} of {plural(len(examples), 'row')}"
        repair = f"name the column that holds the labels with {columns.override('label')}"
        raise DataError(Problem(str(examples.path), found, "at least one row with a label", repair))
    return examples.select(labelled)


def read_texts(path: str | os.PathLike[str], text_column: str = "text") -> Table:
    """Read the sentences of a CSV, TSV, JSON Lines, Parquet or plain text file; labels, if any, are ignored.

    A ``.txt`` file has one sentence per line, and no columns.

    Raises:
        DataError: The file cannot be used; it names all problems of the file (the first 20 in full).
    """
    source = _File(path, TEXT_READERS)
    return Table(source.path, _load(source, Columns({"text": text_column})))


def _load(source: _File | DatasetSplit, columns: Columns) -> pa.Table:
    log = ProblemLog(source.path)
    folder = table.default_folder()
    try:
        target = folder / table.cache_name(source.content(columns), columns)
    except OSError as error:
        _add_unreadable(error, log)
        raise DataError(log.problems()) from error

    def rows() -> Iterator[Any]:
        return _batches(source.rows(columns, log), columns, log)

    try:
        return _cached(target, rows, columns)
    except OSError as error:
        reason = error.strerror or error
        _log.warning("the rows of %s are not kept: the cache %s cannot be written (%s)", source.path, folder, reason)
        return table.write_aside(target.name, rows(), columns.extra, error)


def _cached(target: Path, rows: Callable[[], Iterator[Any]], columns: Columns) -> pa.Table:
    """Return the rows from the cache, where they are written unless they are there."""
    for _ in range(2):
        if not table.is_whole(target):
            table.write(target, rows(), columns.extra)
        with suppress(FileNotFoundError):  # the cache was cleared in between
            return table.mapped(target)
    raise FileNotFoundError(errno.ENOENT, "removed as soon as it was written", str(target))


def _batches(rows: Iterator[Row], columns: Columns, log: ProblemLog) -> Iterator[Any]:
    """Yield the valid rows in record batches; behind the last one raise a `DataError` if a row was not valid."""
    count, valid = 0, valid_rows(rows, columns, log)
    try:
        while portion := list(_portion(valid)):
            count += len(portion)
            yield table.record_batch(portion, columns.extra)
    except OSError as error:
        _add_unreadable(error, log)
    if not log and count == 0:
        log.add(None, "no rows", "at least one row", "add rows, or name another file")
    log.raise_if_any()


def _portion(rows: Iterator[ValidRow]) -> Iterator[ValidRow]:
    """Yield the next rows up to a number of rows and of characters: what may be in memory at a time."""
    characters = 0
    for row in islice(rows, _MOST_ROWS_PER_BATCH):
        yield row
        characters += len(row[0])
        if characters >= _MOST_CHARACTERS_PER_BATCH:
            return


def _state(file: Path) -> tuple[int, int]:
    """Return what changes when the file is written to: its time of change and its size in bytes."""
    state = file.stat()
    return state.st_mtime_ns, state.st_size


def _add_unreadable(error: OSError, log: ProblemLog) -> None:
    log.add(None, f"a file that cannot be read ({error.strerror or error})", "a readable file", "check its permissions")
