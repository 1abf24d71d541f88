"""Rows of activations that tell from their key what they must be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mtl.activations import ActivationStore, row_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

DIM = 3


def key(number: int) -> bytes:
    """Return the key of the text whose only token is ``number``."""
    return row_key(np.array([number]))


def length(number: int) -> int:
    """Return how many vectors the text has in a store of variable rows: 0 to 4."""
    return number % 5


def vectors(numbers: Iterable[int], lengths: Iterable[int] | None = None) -> NDArray[np.float32]:
    """Return the vectors of texts, ``(sum(lengths), DIM)``: number, position, and their sum."""
    numbers = list(numbers)
    counts = [1] * len(numbers) if lengths is None else list(lengths)
    rows = [[n, p, n + p] for n, count in zip(numbers, counts, strict=True) for p in range(count)]
    return np.array(rows, dtype=np.float32).reshape(-1, DIM)


def add(store: ActivationStore, numbers: Sequence[int]) -> None:
    """Append the rows of texts, of variable length if the store is for such."""
    lengths = [length(number) for number in numbers] if store.layout.ragged else None
    store.append([key(number) for number in numbers], lengths, vectors(numbers, lengths))


def present(store: ActivationStore, numbers: Sequence[int]) -> list[int]:
    """Return which texts the store has, after checking each of their values."""
    missing = set(store.missing([key(number) for number in numbers]))
    there = [number for at, number in enumerate(numbers) if at not in missing]
    rows = store.rows([key(number) for number in there])
    if store.layout.ragged:
        lengths = [length(number) for number in there]
        found, counts = rows.gather(range(len(there)))
        assert counts is not None
        assert counts.tolist() == lengths
        np.testing.assert_array_equal(found, vectors(there, lengths))
    else:
        np.testing.assert_array_equal(rows.gather(range(len(there)))[0], vectors(there))
    return there


def files(store: ActivationStore, suffix: str) -> list[Path]:
    """Return the files of a store with a suffix, in the order in which they were written."""
    return sorted(store.path.glob(f"*{suffix}"), key=lambda path: path.stat().st_mtime_ns)
