"""The shape and number format of a source's rows, and blocks of rows in memory that keep to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Dtype = Literal["float32", "bfloat16", "float16"]
_NUMPY: Final[dict[str, np.dtype[Any]]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(np.uint16),  # NumPy has no bfloat16: its raw 16 bits
    "float16": np.dtype(np.float16),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of a source look.

    Attributes:
        dim: ``H``, the numbers of a vector.
        dtype: Their format.
        ragged: Whether a row is ``S_i`` vectors, ``S_i`` its own, rather than one.

    Raises:
        ValueError: ``dim`` or ``dtype`` is none.
    """

    dim: int
    dtype: Dtype = "float32"
    ragged: bool = False

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is {self.dim}; a vector has at least one number")
        if self.dtype not in _NUMPY:
            raise ValueError(f"dtype is {self.dtype!r}; expected one of {', '.join(get_args(Dtype))}")

    @property
    def numpy(self) -> np.dtype[Any]:
        """The dtype of arrays of values: float32, float16, or uint16 with the raw bits of a bfloat16."""
        return _NUMPY[self.dtype]

    @property
    def vector_bytes(self) -> int:
        """The bytes of one vector."""
        return self.dim * self.numpy.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Some rows in memory.

    Attributes:
        keys: The key of each row, ``S16``, ``(N,)``.
        lengths: The vectors of each row, int64, ``(N,)``.
        values: The vectors of all rows, one after the other, ``(sum(lengths), H)``.
    """

    keys: NDArray[np.bytes_]
    lengths: NDArray[np.int64]
    values: NDArray[Any]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def ends(self) -> NDArray[np.int64]:
        """The bytes of values up to and with each row, int64, ``(N,)``."""
        return np.cumsum(self.lengths * (self.values.shape[1] * self.values.itemsize))

    def cut(self, start: int, stop: int) -> Block:
        """Return the rows from ``start`` to before ``stop`` as views."""
        first, last = (int(self.lengths[:at].sum()) for at in (start, stop))
        return Block(self.keys[start:stop], self.lengths[start:stop], self.values[first:last])

    def only(self, wanted: NDArray[np.bool_]) -> Block:
        """Return the rows where ``wanted``, bool ``(N,)``, is true; the block itself if all are."""
        if wanted.all():
            return self
        return Block(self.keys[wanted], self.lengths[wanted], self.values[np.repeat(wanted, self.lengths)])

    def copy(self) -> Block:
        """Return the same rows in arrays of their own."""
        return Block(self.keys.copy(), self.lengths.copy(), self.values.copy())


def block(
    layout: Layout, keys: NDArray[np.bytes_], lengths: NDArray[np.integer[Any]] | None, values: NDArray[Any]
) -> Block:
    """Return the rows as a block after checking that they fit the layout and each other.

    Args:
        layout: What the rows must look like.
        keys: The key of each row, ``S16``, ``(N,)``.
        lengths: The vectors of each row, ``(N,)``; ``None`` for one each.
        values: The vectors of all rows, ``(sum(lengths), H)``.

    Raises:
        ValueError: They do not.
    """
    if lengths is None and layout.ragged:
        raise ValueError("rows of variable length come with their lengths")
    counts = np.ones(len(keys), np.int64) if lengths is None else np.asarray(lengths, np.int64)
    if counts.shape != keys.shape or counts.min(initial=0) < 0:
        raise ValueError(f"{len(keys)} keys, and lengths of the shape {counts.shape}; a row has a length of 0 or more")
    if not layout.ragged and (counts != 1).any():
        raise ValueError("the rows of this source are single vectors; their lengths are all 1")
    values = np.asarray(values)
    if layout.dtype == "float16" and values.dtype == np.uint16:
        values = values.view(np.float16)
    if values.dtype != layout.numpy or values.shape != (counts.sum(), layout.dim):
        expected = f"{layout.numpy} ({counts.sum()}, {layout.dim})"
        raise ValueError(f"values are {values.dtype} {values.shape}; expected {expected}")
    return Block(keys, counts, values)
