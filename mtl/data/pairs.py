"""Sentence pairs with a similarity score: read from any data file, every problem of it at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mtl.data.problems import Columns, ProblemLog, shown
from mtl.data.readers import READERS, Cell, reader_of
from mtl.data.row_checks import checked_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

_READERS = {suffix: reader for suffix, reader in READERS.items() if suffix != ".parquet"}
FEWEST = 3
"""A rank correlation of two pairs is 1 or -1, whatever they say."""
KEY = "retention"
"""Where the file and its columns are configured."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """``N`` pairs of sentences."""

    first: list[str]
    second: list[str]
    scores: NDArray[np.float64]  # how similar they are, the larger the more, float64 ``(N,)``; only their order counts

    def __len__(self) -> int:
        return len(self.scores)


def read_pairs(path: Path, first_column: str, second_column: str, score_column: str) -> Pairs:
    """Read pairs from a CSV, TSV or JSON Lines file, or raise a `DataError` with all problems of the file."""
    log = ProblemLog(path)
    reader = reader_of(path, _READERS)
    by_role = {"first sentence": first_column, "second sentence": second_column, "score": score_column}
    pairs: list[tuple[str, str, float]] = []
    for line, row in reader(path, Columns(by_role, KEY), log):
        first, second = (checked_text(row.get(name, Cell.MISSING), line, log) for name in (first_column, second_column))
        score = _number(row.get(score_column, Cell.MISSING), line, log)
        if first is not None and second is not None and score is not None:
            pairs.append((first, second, score))
    if not log and len(pairs) < FEWEST:
        log.add(None, f"{len(pairs)} pairs", f"at least {FEWEST} pairs", "add pairs, or name another file")
    if not log and len({score for *_, score in pairs}) < 2:
        log.add(None, "the same score everywhere", "at least two different scores", "a rank needs an order")
    log.raise_if_any()
    firsts, seconds, scores = zip(*pairs, strict=True)
    return Pairs(list(firsts), list(seconds), np.array(scores, dtype=np.float64))


def _number(value: object, line: int, log: ProblemLog) -> float | None:
    """Return the score as a number, or ``None`` with a problem in the log if it is none."""
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
