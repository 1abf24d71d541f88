"""What a run says of itself: the source of activations, texts that are truncated, training on a part of the rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mtl.data.datamodule import TokenizedSplit
from mtl.data.tokens import TokenTable
from mtl.training.description import activation_lines, cut_texts, plan_warnings
from mtl.training.freezing import FreezePlan
from tests.support.runs import config


def split(*lengths: int) -> TokenizedSplit:
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    return TokenizedSplit(TokenTable(np.zeros(offsets[-1], dtype=np.int32), offsets), np.zeros(len(lengths), np.int64))


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


LAYERS = ["embeddings", "layer.0", "layer.1", "layer.2"]
HEADS = {"heads.mood": 0}


def planned(first: dict[str, int], *, cached: bool = True, supports_split: bool = True, unit: Any = "steps") -> Any:
    encoder = SimpleNamespace(layer_names=LAYERS, supports_split=supports_split)
    return SimpleNamespace(
        start=SimpleNamespace(network=SimpleNamespace(encoder=encoder)),
        freezing=FreezePlan({**first, **HEADS}, unit),
        config=SimpleNamespace(cache=SimpleNamespace(activations=cached)),
    )


@pytest.mark.parametrize(
    ("plan", "lines"),
    [
        (
            planned({}),
            ["from step 1: embeddings of the frozen encoder, computed once and read from the cache on disk"],
        ),
        (
            planned({}, cached=False),
            ["from step 1: embeddings of the frozen encoder, computed once and kept in memory"],
        ),
        (
            planned({"layer.2": 0}),
            ["from step 1: activations up to layer.1, computed once and read from the cache on disk"],
        ),
        (planned({"layer.2": 0}, cached=False), ["from step 1: activations up to layer.1, computed in every step"]),
        (
            planned({"layer.2": 0}, supports_split=False),
            ["from step 1: activations up to layer.1, computed in every step"],
        ),
        (planned(dict.fromkeys(LAYERS, 0)), []),
        (
            planned({"layer.2": 1, "layer.1": 2, "layer.0": 3, "embeddings": 3}, unit="epochs"),
            [
                "from step 1: embeddings of the frozen encoder, computed once and read from the cache on disk",
                "from step 11: activations up to layer.1, computed once and read from the cache on disk",
                "from step 21: activations up to layer.0, computed once and read from the cache on disk",
                "from step 31: all activations, computed in every step",
            ],
        ),
    ],
)
def test_the_plan_names_the_source_of_activations(plan: Any, lines: list[str]) -> None:
    assert activation_lines(plan, steps_per_epoch=10, total_steps=40) == lines


def test_what_would_follow_the_last_step_is_not_planned() -> None:
    lines = activation_lines(planned({"layer.2": 1}, unit="epochs"), steps_per_epoch=10, total_steps=10)
    assert lines == ["from step 1: embeddings of the frozen encoder, computed once and read from the cache on disk"]
