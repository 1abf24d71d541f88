"""What a report says of a run: texts that are longer than what is read of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mtl.data.datamodule import EncodedSplit
from mtl.data.tokens import TokenTable
from mtl.training.description import cut_texts, plan_warnings
from tests.support.runs import config


def split(*lengths: int) -> EncodedSplit:
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    return EncodedSplit(TokenTable(np.zeros(offsets[-1], dtype=np.int32), offsets), np.zeros(len(lengths), np.int64))


@pytest.mark.parametrize("rows", [2, 300])
def test_cut_texts_are_said_where_they_are_more_than_one_in_a_hundred(rows: int) -> None:
    splits = {"mood": {"train": split(8, 8, 3), "val": split(2)}, "topic": {"train": split(8, *[7] * (rows - 1))}}
    found = cut_texts(splits, 8)
    assert [each.partition(":")[0] for each in found] == [
        "2 of 4 texts of mood (50%) have 8 tokens or more",
        *(["1 of 2 texts of topic (50%) have 8 tokens or more"] if rows == 2 else []),
    ]


def test_no_text_is_cut() -> None:
    assert cut_texts({"mood": {"train": split(7, 3), "val": split()}}, 8) == []


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ([], None),
        (["+trainer.limit_train_batches=1.0"], None),
        (["+trainer.limit_train_batches=1"], "limit_train_batches"),
        (["+trainer.limit_train_batches=0.5", "+trainer.fast_dev_run=true"], "fast_dev_run or limit_train_batches"),
        (["trainer=debug"], "limit_train_batches or data.most_batches"),
    ],
)
def test_training_on_a_part_of_the_rows_is_said(flags: list[str], names: str | None) -> None:
    """``limit_train_batches=1.0`` is all of them."""
    plan: Any = SimpleNamespace(config=config(*flags), tasks={}, start=SimpleNamespace(heads={}))
    expected = [] if names is None else [f"Trained on a part of the rows only ({names})."]
    assert plan_warnings(plan) == expected
