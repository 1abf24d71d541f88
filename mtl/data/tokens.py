"""Tokenize a stream of texts into one flat table of ids, and pad rows of it into tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mtl.base.errors import ConfigError, ModelError, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

CHUNK_TEXTS = 4096
CHUNK_CHARACTERS = 4_000_000
UNLIMITED = 512
"""Tokens per sentence where neither the checkpoint nor the family sets a limit."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenTable:
    """The token ids of ``N`` texts, one after the other in one array."""

    ids: NDArray[np.int32]  # the ids of all rows, int32, ``(T,)`` for ``T`` tokens in all
    offsets: NDArray[np.int64]  # where each row begins and the last one ends, int64, ``(N + 1,)``

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of tokens of each row, special tokens included, int64, ``(N,)``."""
        return np.diff(self.offsets)

    def row(self, index: int) -> NDArray[np.int32]:
        """Return the ids of one row, counted from 0, as a view, int32, ``(S,)``."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def rows(self, indices: Iterable[int]) -> list[NDArray[np.int32]]:
        """Return the ids of the given rows as views, in the order given."""
        return [self.row(index) for index in indices]

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> TokenTable:
        """Return a table in memory of the given rows, in the order given; a row may come more than once."""
        picked = np.asarray(indices, dtype=np.int64)
        starts, lengths = self.offsets[:-1][picked], self.lengths[picked]
        offsets = _offsets([lengths])
        ids = np.empty(offsets[-1], dtype=np.int32)
        for start in range(0, len(picked), CHUNK_TEXTS):  # the places of all tokens at once would take 16 bytes each
            stop = min(start + CHUNK_TEXTS, len(picked))
            first, last = offsets[start], offsets[stop]
            shift = np.repeat(starts[start:stop] - offsets[start:stop], lengths[start:stop])
            ids[first:last] = self.ids[np.arange(first, last) + shift]
        return TokenTable(ids, offsets)


def tokenize(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, max_length: int, prompt: str = "") -> TokenTable:
    """Turn texts into token ids, chunk by chunk, without ever holding all texts or all encodings.

    A text without tokens keeps its special tokens; ``max_length`` counts them. A lone surrogate, which no tokenizer
    takes, is read as U+FFFD. The ``prompt`` is put before each text.

    Raises:
        ConfigError: ``max_length`` leaves no room for a token of the text.
        ModelError: The tokenizer is damaged.
    """
    special = tokenizer.num_special_tokens_to_add()
    if max_length <= special:
        expected = f"at least {special + 1}: the tokenizer adds {special} special tokens to each text"
        raise ConfigError(Problem("backbone.max_length", str(max_length), expected))
    prompted = (prompt + text for text in texts) if prompt else texts
    chunks = list(_encode(prompted, tokenizer, max_length))
    ids = np.concatenate([ids for ids, _ in chunks]) if chunks else np.empty(0, dtype=np.int32)
    return TokenTable(ids, _offsets([lengths for _, lengths in chunks]))


def joined(tables: Sequence[TokenTable]) -> TokenTable:
    """Return the rows of several tables as one."""
    ids = np.concatenate([np.empty(0, dtype=np.int32), *(table.ids for table in tables)])
    return TokenTable(ids, _offsets([table.lengths for table in tables]))


def distinct(rows: Iterable[NDArray[np.int32]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which of ``N`` rows to keep so that each is there once, and the place of each row among those.

    The first of each set of equal rows is kept: ascending, int64, ``(D,)``. The places are int64, ``(N,)``.
    """
    known: dict[bytes, int] = {}
    places = np.fromiter((known.setdefault(row.tobytes(), len(known)) for row in rows), dtype=np.int64)
    return np.unique(places, return_index=True)[1].astype(np.int64), places


def pad(rows: Sequence[NDArray[np.integer]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Pad ``B`` rows of ids, each ``(S_i,)``, on the right to the longest of them.

    Returns:
        Ids, int64, ``(B, S)``, and the mask that is true on tokens and false on padding, bool, ``(B, S)``. S is 1 at
        least: no encoder takes rows without any place.
    """
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    mask = np.arange(lengths.max(initial=1)) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    if len(rows):
        ids[mask] = np.concatenate(rows)
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _encode(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
    for chunk in _chunks(texts):
        with tokenizing(tokenizer):
            rows = tokenizer(
                _well_formed(chunk),
                truncation=True,
                max_length=max_length,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        yield np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(lengths.sum())), lengths


@contextmanager
def tokenizing(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Raise a `ModelError` for what a damaged tokenizer raises: bare exceptions, and panics, which are none."""
    try:
        yield
    except MemoryError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        found = f"the tokenizer fails: {type(error).__name__}: {error}"
        expected = "a tokenizer that takes any text"
        raise ModelError(Problem(str(tokenizer.name_or_path), found, expected, "fetch its files again")) from error


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    characters = 0
    for text in texts:
        chunk.append(text)
        characters += len(text)
        if len(chunk) == CHUNK_TEXTS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _well_formed(texts: list[str]) -> list[str]:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
    return texts


def _offsets(lengths: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, dtype=np.int64), *lengths]).cumsum()
