"""Token tables: what `tokenize` writes, how rows come out, and `pad`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mtl.base.errors import ConfigError
from mtl.data import tokens as tokenization
from mtl.data.tokens import TokenTable, distinct, joined, pad, tokenize

PAD, CLS, SEP, UNK = 0, 1, 2, 3
TEXTS = ["good film", "", "bad bad film good", "film"]
ROWS = [[CLS, 4, 6, SEP], [CLS, SEP], [CLS, 5, 5, 6, 4, SEP], [CLS, 6, SEP]]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "good", "bad", "film", "�", "😀"]
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))  # noqa: S106
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", CLS), ("[SEP]", SEP)])
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=8, **special)


def as_lists(table: TokenTable) -> list[list[int]]:
    return [table.row(index).tolist() for index in range(len(table))]


def table_of(rows: list[list[int]]) -> TokenTable:
    ids = np.array([token for row in rows for token in row], dtype=np.int32)
    return TokenTable(ids, np.cumsum([0, *map(len, rows)], dtype=np.int64))


def test_rows_are_the_ids_of_the_texts(tokenizer: Any) -> None:
    table = tokenize(TEXTS, tokenizer, max_length=16)

    assert as_lists(table) == ROWS == [tokenizer(text)["input_ids"] for text in TEXTS]
    assert table.lengths.tolist() == [4, 2, 6, 3]
    assert [array.dtype.name for array in (table.ids, table.offsets, table.lengths)] == ["int32", "int64", "int64"]


def test_truncation_counts_special_tokens(tokenizer: Any) -> None:
    table = tokenize(["bad bad film good", "good"], tokenizer, max_length=4)

    assert as_lists(table) == [[CLS, 5, 5, SEP], [CLS, 4, SEP]]


def test_a_text_longer_than_the_model_takes_gives_no_warning(
    tokenizer: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    table = tokenize(["good " * 50], tokenizer, max_length=40)

    assert table.lengths.tolist() == [40]
    assert caplog.text == ""
    assert "longer" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        pytest.param("good \ud83d", [4, 7], id="high at the end"),
        pytest.param("\ude00 good", [7, 4], id="low at the start"),
        pytest.param("\ud83d\ude00 good", [8, 4], id="a pair is the character it stands for"),
    ],
)
def test_surrogates(tokenizer: Any, text: str, tokens: list[int]) -> None:
    table = tokenize(["film", text, "bad"], tokenizer, max_length=8)

    assert as_lists(table) == [[CLS, 6, SEP], [CLS, *tokens, SEP], [CLS, 5, SEP]]


def test_no_texts(tokenizer: Any) -> None:
    table = tokenize([], tokenizer, 8)

    assert len(table) == 0
    assert table.lengths.tolist() == []
    assert (table.ids.dtype.name, table.ids.shape) == ("int32", (0,))


@pytest.mark.parametrize("limit", ["CHUNK_TEXTS", "CHUNK_CHARACTERS"])
@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_chunks_make_no_difference(tokenizer: Any, monkeypatch: pytest.MonkeyPatch, limit: str, size: int) -> None:
    monkeypatch.setattr(tokenization, limit, size)

    assert as_lists(tokenize(iter(TEXTS), tokenizer, max_length=16)) == ROWS


def test_texts_are_read_no_further_than_a_chunk_ahead(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenization, "CHUNK_TEXTS", 3)
    read = itertools.count()
    held: list[int] = []

    def texts() -> Iterator[str]:
        for _ in range(9):
            next(read)
            yield "good"

    class Recorder:
        def num_special_tokens_to_add(self) -> int:
            return 2

        def __call__(self, chunk: list[str], **settings: Any) -> Any:
            held.append(len(chunk))
            return tokenizer(chunk, **settings)

    tokenize(texts(), Recorder(), max_length=8)

    assert held == [3, 3, 3]
    assert next(read) == 9


@pytest.mark.parametrize("max_length", [-1, 0, 2])
def test_no_room_for_a_token(tokenizer: Any, max_length: int) -> None:
    with pytest.raises(ConfigError) as caught:
        tokenize(TEXTS, tokenizer, max_length)

    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  backbone.max_length\n"
        f"      found:    {max_length}\n"
        "      expected: at least 3: the tokenizer adds 2 special tokens to each text"
    )


def test_select_takes_rows_in_any_order_and_again(tokenizer: Any) -> None:
    table = tokenize(TEXTS, tokenizer, max_length=16)

    assert as_lists(table.select([2, 0, 2, -1])) == [ROWS[2], ROWS[0], ROWS[2], ROWS[3]]
    assert as_lists(table.select(np.arange(4))) == ROWS
    assert len(table.select([])) == 0
    assert [row.tolist() for row in table.rows(np.array([3, 1]))] == [ROWS[3], ROWS[1]]


def test_select_goes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtl.data.tokens.CHUNK_TEXTS", 3)
    random = np.random.default_rng(0)
    lengths = random.integers(0, 5, 20)
    table = table_of([random.integers(0, 9, length).tolist() for length in lengths])
    picked = random.integers(0, 20, 31)

    assert as_lists(table.select(picked)) == [table.row(at).tolist() for at in picked]


@given(drawn=st.lists(st.lists(st.integers(0, 2), max_size=3), max_size=12))
def test_distinct_rows_give_all_rows_back(drawn: list[list[int]]) -> None:
    table = table_of(drawn)
    kept, places = distinct(table.rows(range(len(table))))

    assert as_lists(table.select(kept)) == list({tuple(row): row for row in drawn}.values())
    assert as_lists(table.select(kept[places])) == drawn
    assert str(kept.dtype) == str(places.dtype) == "int64"


def test_joined_tables_have_the_rows_of_all() -> None:
    first, second = [[1, 2], [], [3]], [[4], [1, 2]]

    assert as_lists(joined([table_of(first), table_of(second)])) == first + second
    assert len(joined([])) == 0


def test_pad_fills_on_the_right() -> None:
    ids, mask = pad([np.array([5, 6, 7], np.int32), np.array([8], np.int32), np.empty(0, np.int32)], pad_id=9)

    assert ids.tolist() == [[5, 6, 7], [8, 9, 9], [9, 9, 9]]
    assert mask.tolist() == [[True, True, True], [True, False, False], [False, False, False]]
    assert (ids.dtype, mask.dtype) == (torch.int64, torch.bool)


@pytest.mark.parametrize(("rows", "shape"), [([], (0, 1)), ([np.empty(0, np.int32)], (1, 1))])
def test_pad_of_nothing(rows: list[Any], shape: tuple[int, int]) -> None:
    ids, mask = pad(rows, pad_id=0)

    assert tuple(ids.shape) == tuple(mask.shape) == shape
    assert not mask.any()


def test_pad_equals_the_plain_loop() -> None:
    random = np.random.default_rng(0)
    rows = [random.integers(1, 100, size).astype(np.int32) for size in random.integers(0, 12, 50)]
    longest = max(map(len, rows))

    ids, mask = pad(rows, pad_id=0)

    assert ids.tolist() == [[*row.tolist(), *[0] * (longest - len(row))] for row in rows]
    assert mask.sum(dim=1).tolist() == [len(row) for row in rows]
