"""Texts that occur more than once, exactly or nearly, within the training rows and across the splits."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

CHUNK = 256
"""Rows that are compared with all others at a time: 256 x 100,000 similarities are 100 MB in float32."""
MOST_PAIRS = 100_000
"""The most pairs in the list: a text that is repeated very often is one finding, not a million."""
_NO_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows with the same or nearly the same text, ``first < second``."""

    first: int
    second: int
    cosine: float
    same_text: bool  # whether the texts are equal once `normalized`


def normalized(text: str) -> str:
    """Return the text without case, punctuation and the width of its letters; without case only if nothing is left."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _NO_WORD.sub(" ", folded).strip() or folded.strip()


def text_groups(texts: Iterable[str]) -> NDArray[np.int64]:
    """Return a number for each text ``(N,)``, equal for texts that are equal once `normalized`."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(normalized(text), len(known)) for text in texts], dtype=np.int64)


def duplicates(
    embeddings: NDArray[np.float32], groups: NDArray[np.int64], first_rows: int, threshold: float
) -> list[Pair]:
    """Return pairs of rows with the same or nearly the same text, of which at least one is among the first rows.

    Embeddings ``(N, H)`` are compared in chunks, so that memory grows with ``N`` and not with its square. Rows in the
    same of the `text_groups` are a pair even if their cosine is below the threshold. The pairs of the same text come
    first, then those by descending cosine; at most `MOST_PAIRS`.
    """
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    units = embeddings / np.maximum(lengths, np.float32(1e-12))
    pairs: list[Pair] = []
    for start in range(0, first_rows, CHUNK):
        stop = min(start + CHUNK, first_rows)
        cosines = units[start:stop] @ units[start:].T
        same = groups[start:stop, None] == groups[None, start:]
        later = np.arange(len(units) - start)[None, :] > np.arange(stop - start)[:, None]
        rows, columns = np.nonzero(later & (same | (cosines >= threshold)))
        matches = zip(rows, columns, cosines[rows, columns], same[rows, columns], strict=True)
        pairs += [
            Pair(start + int(a), start + int(b), float(cosine), bool(equal))
            for a, b, cosine, equal in islice(matches, MOST_PAIRS - len(pairs))
        ]
        if len(pairs) >= MOST_PAIRS:
            break
    return sorted(pairs, key=lambda pair: (-pair.same_text, -pair.cosine, pair.first, pair.second))[:MOST_PAIRS]
