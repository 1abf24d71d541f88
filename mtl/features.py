"""Features: what a frozen encoder gives for each distinct sentence, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mtl.data.tokenization import TokenTable
from mtl.encoding import Encoding, encode_table
from mtl.model.encoder import Encoder

if TYPE_CHECKING:
    from numpy.typing import NDArray


def encode_distinct(encoder: Encoder, tables: Sequence[TokenTable], how: Encoding) -> list[NDArray[np.float32]]:
    """Return the embeddings ``(N, H)`` of every table; a sentence that stands twice, in any of them, is encoded once.

    Args:
        encoder: The frozen encoder.
        tables: Token ids, a table for each task and split.
        how: Batches, precision, progress bar.
    """
    places: dict[bytes, int] = {}
    rows: list[NDArray[np.int32]] = []
    inverse = [np.empty(len(table), dtype=np.int64) for table in tables]
    for table, found in zip(tables, inverse, strict=True):
        for at in range(len(table)):
            row = table.row(at)
            place = places.setdefault(row.tobytes(), len(rows))
            if place == len(rows):
                rows.append(row)
            found[at] = place
    embeddings = encode_table(encoder, _table(rows), how)
    return [embeddings[found] for found in inverse]


def _table(rows: Sequence[NDArray[np.int32]]) -> TokenTable:
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return TokenTable(np.concatenate(rows) if rows else np.empty(0, dtype=np.int32), offsets)
