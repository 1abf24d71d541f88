"""A row as a reader yields it, before its values are checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path

from mtl.data.problems import Columns, ProblemLog


class Cell(Enum):
    """What stands for a value that a row has not."""

    MISSING = "missing"  # the column is not read, or its absence has been noted
    UNDECODABLE = "undecodable"  # the bytes are not UTF-8


Row = tuple[int, object, object, *tuple[object, ...]]
"""Line (1 is the first; of a Parquet file: the row), text, label, then the values of the extra columns."""

Reader = Callable[[Path, Columns, ProblemLog], Iterator[Row]]
"""Yields the rows of a file; a row whose structure is broken goes to the log instead."""
