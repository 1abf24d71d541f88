"""Features: every distinct row is encoded once, and each gets what plain encoding gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl.data.tokenization import TokenTable
from mtl.encoding import Encoding, encode_table
from mtl.features import encode_distinct
from mtl.model.encoder import Encoder

if TYPE_CHECKING:
    from pathlib import Path

HOW = Encoding(pad_id=1, batch_size=4)
ROWS = ([0, 17, 2], [0, 2], [0, 17, 18, 2], [0, 18, 17, 2], [0, 99, 2])
"""Token ids of some rows; two have the same tokens in another order."""


@pytest.fixture(scope="module")
def encoder(tiny_folder: Path) -> Encoder:
    return Encoder.from_folder(tiny_folder)


def table(*rows: list[int]) -> TokenTable:
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return TokenTable(np.array([each for row in rows for each in row], dtype=np.int32), offsets)


def encoded_rows(encoder: Encoder, tables: list[TokenTable]) -> int:
    """Return how many rows reach the encoder."""
    counts: list[int] = []
    hook = encoder.register_forward_hook(lambda *call: counts.append(len(call[2])))
    try:
        encode_distinct(encoder, tables, HOW)
    finally:
        hook.remove()
    return sum(counts)


tables = st.lists(st.lists(st.sampled_from(ROWS), max_size=6), max_size=3)


@given(drawn=tables)
@settings(deadline=None, max_examples=30)
def test_it_equals_plain_encoding(encoder: Encoder, drawn: list[list[list[int]]]) -> None:
    given_tables = [table(*rows) for rows in drawn]
    found = encode_distinct(encoder, given_tables, HOW)
    assert len(found) == len(given_tables)
    for features, each in zip(found, given_tables, strict=True):
        assert features.dtype == np.float32
        assert features.shape == (len(each), 32)
        assert features == pytest.approx(encode_table(encoder, each, HOW), abs=1e-6)


@given(drawn=tables)
@settings(deadline=None, max_examples=30)
def test_each_distinct_row_reaches_the_encoder_once(encoder: Encoder, drawn: list[list[list[int]]]) -> None:
    distinct = {tuple(row) for rows in drawn for row in rows}
    assert encoded_rows(encoder, [table(*rows) for rows in drawn]) == len(distinct)


def test_rows_that_are_the_same_have_the_same_bits(encoder: Encoder) -> None:
    one, other = encode_distinct(encoder, [table(ROWS[0], ROWS[2], ROWS[0]), table(ROWS[4], ROWS[0])], HOW)
    assert np.array_equal(one[0], one[2])
    assert np.array_equal(one[0], other[1])
    assert not np.allclose(one[0], one[1])


def test_rows_of_one_table_do_not_share_memory(encoder: Encoder) -> None:
    (found,) = encode_distinct(encoder, [table(ROWS[0], ROWS[0])], HOW)
    found[0] = 0.0
    assert found[1].any()
