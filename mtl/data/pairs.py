"""Sentence pairs with a similarity score: read from any data file, every problem of it at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mtl.base.errors import DataError
from mtl.data.problems import Columns, ProblemLog, shown
from mtl.data.readers import READERS, Cell, Row, reader_of
from mtl.data.validation import checked_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

_READERS = {suffix: reader for suffix, reader in READERS.items() if suffix != ".parquet"}
FEWEST = 3
"""A rank correlation of two pairs is 1 or -1, whatever they say."""
KEY = "retention"
"""Where the file and its columns are configured."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """``N`` pairs of sentences.

    Attributes:
        first: The first sentence of each pair.
        second: The second one.
        scores: How similar they are, the larger the more, float64 ``(N,)``; only their order counts.
    """

    first: list[str]
    second: list[str]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, slots=True)
class _PairColumns(Columns):
    """The first sentence as text, beside the second sentence or the score, under the keys that name their columns."""

    other: str = "second sentence"

    @property
    def by_role(self) -> dict[str, str]:
        """The names to look for, keyed by what they are for."""
        return {"first sentence": self.text, self.other: str(self.label)}

    def override(self, role: str, name: str = "") -> str:
        """Return the configuration override that makes ``name`` the column of ``role``."""
        key = f"{self.config_key}.{role.removesuffix(' sentence')}_column="
        return f"{key}{name if name.isidentifier() or not name else repr(name)}"


def read_pairs(path: Path, first_column: str, second_column: str, score_column: str) -> Pairs:
    """Read pairs from a CSV, TSV or JSON Lines file.

    Args:
        path: The file; its suffix tells the format.
        first_column: The column with the first sentence.
        second_column: The column with the second sentence.
        score_column: The column with the score, a number.

    Raises:
        DataError: The file cannot be used; it names all problems of the file (the first 20 in full).
    """
    log = ProblemLog(path)
    reader = reader_of(path, _READERS)
    rows = list(reader(path, _PairColumns(first_column, second_column, KEY), log))
    scored = list(reader(path, _PairColumns(first_column, score_column, KEY, "score"), log))
    pairs = list(_checked(rows, scored, log)) if len(rows) == len(scored) else []
    if not log and len(pairs) < FEWEST:
        log.add(None, f"{len(pairs)} pairs", f"at least {FEWEST} pairs", "add pairs, or name another file")
    if not log and len({score for *_, score in pairs}) < 2:
        log.add(None, "the same score everywhere", "at least two different scores", "a rank needs an order")
    if log:
        raise DataError(dict.fromkeys(log.problems()))  # a broken row was met twice
    first, second, scores = zip(*pairs, strict=True)
    return Pairs(list(first), list(second), np.array(scores, dtype=np.float64))


def _checked(rows: list[Row], scored: list[Row], log: ProblemLog) -> Iterator[tuple[str, str, float]]:
    for (line, first, second, *_), (_, _, score, *_) in zip(rows, scored, strict=True):
        good = checked_text(first, line, log), checked_text(second, line, log), _number(score, line, log)
        if good[0] is not None and good[1] is not None and good[2] is not None:
            yield good[0], good[1], good[2]


def _number(value: object, line: int, log: ProblemLog) -> float | None:
    """Return the score as a number, or ``None`` after the log was told why it is none."""
    if value is Cell.MISSING:  # the reader has said so
        return None
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if math.isfinite(number):
        return number
    log.add(line, f"a score that is no finite number: {shown(value)}", "a number", "write a number, or remove the row")
    return None
