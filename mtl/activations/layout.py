"""Rows of activations: their keys and shape, and blocks of them in memory or mapped from files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Keys: TypeAlias = Sequence[bytes] | NDArray[np.void]

KEY_BYTES: Final = 16
_S16: Final = np.dtype(f"S{KEY_BYTES}")  # sorts and compares fast; not handed out: items lose zeros at their end
_PLACE: Final = np.dtype([("segment", np.int32), ("length", np.int32), ("start", np.int64)])


def row_key(ids: NDArray[np.integer[Any]]) -> bytes:
    """Return the key of a text: 16 bytes of BLAKE2b over its token ids ``(S,)`` as little-endian int32."""
    return hashlib.blake2b(np.ascontiguousarray(ids, "<i4").data, digest_size=KEY_BYTES).digest()


def row_keys(ids: NDArray[np.integer[Any]], offsets: NDArray[np.int64]) -> NDArray[np.void]:
    """Return the key of each row of a token table, see `row_key`, as one array of ``N`` times 16 bytes."""
    keys = np.empty(len(offsets) - 1, np.dtype(f"V{KEY_BYTES}"))
    for row, (start, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        keys[row] = row_key(ids[start:end])
    return keys


def as_keys(keys: Keys) -> NDArray[np.bytes_]:
    """Return keys of 16 bytes each in one array, ``S16`` ``(N,)``."""
    return np.asarray(keys, f"V{KEY_BYTES}").view(_S16)


def first_of_each(keys: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """Return where each distinct key stands for the first time, in ascending order, int64."""
    return np.sort(np.unique(keys, return_index=True)[1])


class KeyTable:
    """Finds rows by their keys; of a key that was added twice it keeps the first.

    Additions are collected and merged into the sorted table at the next question.
    """

    def __init__(self) -> None:
        self._keys = np.empty(0, _S16)
        self._places = np.empty(0, _PLACE)
        self._added: list[tuple[NDArray[np.bytes_], NDArray[Any]]] = []

    def add(self, segment: int, keys: NDArray[np.bytes_], lengths: NDArray[np.int64]) -> None:
        """Add all rows of a segment, in their order in it: their keys ``(N,)`` and numbers of vectors ``(N,)``."""
        places = np.empty(len(keys), _PLACE)
        places["segment"] = segment
        places["length"] = lengths
        places["start"] = np.cumsum(lengths) - lengths
        self._added.append((keys, places))

    def remove(self, segment: int) -> None:
        """Forget the rows of a segment."""
        self._settle()
        kept = self._places["segment"] != segment
        self._keys, self._places = self._keys[kept], self._places[kept]

    def find(self, keys: NDArray[np.bytes_]) -> tuple[NDArray[np.bool_], NDArray[Any]]:
        """Return which keys are there, bool ``(N,)``, and the places of those, in their order.

        The second array has the fields ``segment``, ``start`` (in vectors) and ``length``.
        """
        self._settle()
        if not len(self._keys):
            return np.zeros(len(keys), bool), np.empty(0, _PLACE)
        at = np.searchsorted(self._keys, keys)
        at[at == len(self._keys)] = 0
        there = self._keys[at] == keys
        return there, self._places[at[there]]

    def _settle(self) -> None:
        if not self._added:
            return
        keys = np.concatenate([self._keys, *(keys for keys, _ in self._added)])
        places = np.concatenate([self._places, *(places for _, places in self._added)])
        self._keys, first = np.unique(keys, return_index=True)
        self._places, self._added = places[first], []


@dataclass(frozen=True, slots=True)
class Layout:
    """The shape of the rows of a source; their numbers are float32."""

    dim: int  # ``H``, the numbers of a vector
    ragged: bool = False  # whether a row is ``S_i`` vectors, ``S_i`` its own, rather than one

    @property
    def vector_bytes(self) -> int:
        """The size of one vector in bytes."""
        return self.dim * np.dtype(np.float32).itemsize


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Some rows in memory."""

    keys: NDArray[np.bytes_]  # the key of each row, ``S16``, ``(N,)``
    lengths: NDArray[np.int64]  # the vectors of each row, int64, ``(N,)``
    values: NDArray[Any]  # the vectors of all rows, one after the other, ``(sum(lengths), H)``

    def __len__(self) -> int:
        return len(self.keys)

    def only(self, wanted: NDArray[np.bool_]) -> Block:
        """Return the rows where ``wanted``, bool ``(N,)``, is true; the block itself if all are."""
        if wanted.all():
            return self
        return Block(self.keys[wanted], self.lengths[wanted], self.values[np.repeat(wanted, self.lengths)])


def joined(blocks: Sequence[Block]) -> Block:
    """Return the rows of some blocks, one block or more, in arrays of their own."""
    return Block(
        np.concatenate([block.keys for block in blocks]),
        np.concatenate([block.lengths for block in blocks]),
        np.concatenate([block.values for block in blocks]),
    )
