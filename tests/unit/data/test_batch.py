"""Batches: how the rows of a step become tensors, and how they move."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision
from torch.utils._pytree import tree_leaves

from mtl.data.batch import Batch, collate
from mtl.data.tokens import TokenTable

TABLES = {
    "topic": TokenTable(np.arange(10, 19, dtype=np.int32), np.array([0, 2, 5, 9])),
    "mood": TokenTable(np.arange(20, 26, dtype=np.int32), np.array([0, 1, 6])),
}
LABELS = {"topic": np.array([2, 0, 1]), "mood": np.array([0, 1])}


def rows(*indices: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(indices, dtype=np.int64)


def test_the_rows_of_a_task_lie_together() -> None:
    batch = collate({"mood": rows(0), "topic": rows(2, 0)}, TABLES, LABELS, pad_id=7)

    assert batch.ids is not None
    assert batch.mask is not None
    assert batch.ids.tolist() == [[20, 7, 7, 7], [15, 16, 17, 18], [10, 11, 7, 7]]
    assert batch.mask.sum(dim=1).tolist() == [1, 4, 2]
    assert batch.slices == {"mood": slice(0, 1), "topic": slice(1, 3)}
    assert {task: labels.tolist() for task, labels in batch.labels.items()} == {"mood": [0], "topic": [1, 2]}
    assert {task: indices.tolist() for task, indices in batch.indices.items()} == {"mood": [0], "topic": [2, 0]}
    assert (len(batch), batch.tasks, batch.sizes) == (3, ("mood", "topic"), {"mood": 1, "topic": 2})
    assert {tensor.dtype for tensor in (batch.ids, *batch.labels.values(), *batch.indices.values())} == {torch.int64}


def test_a_task_without_rows_keeps_an_empty_slice() -> None:
    batch = collate({"mood": rows(), "topic": rows(1)}, TABLES, LABELS, pad_id=0)

    assert batch.slices == {"mood": slice(0, 0), "topic": slice(0, 1)}
    assert batch.labels["mood"].shape == (0,)
    assert batch.labels["mood"].dtype == torch.int64


def test_no_rows_at_all() -> None:
    batch = collate({"mood": rows()}, TABLES, LABELS, pad_id=0)

    assert (len(batch), batch.sizes) == (0, {"mood": 0})
    assert batch.ids is not None
    assert batch.ids.shape == (0, 1)


def test_a_task_without_labels() -> None:
    batch = collate({"mood": rows(1), "topic": rows(1)}, TABLES, {"topic": LABELS["topic"]}, pad_id=0)

    assert batch.tasks == ("mood", "topic")
    assert list(batch.labels) == ["topic"]


def test_a_batch_owns_its_tensors() -> None:
    step = {"topic": rows(0, 1)}
    batch = collate(step, TABLES, LABELS, pad_id=0)
    for tensor in tree_leaves([batch.ids, batch.labels, batch.indices]):
        tensor.zero_()

    assert step["topic"].tolist() == [0, 1]
    assert LABELS["topic"].tolist() == [2, 0, 1]
    assert TABLES["topic"].ids.tolist() == list(range(10, 19))


def test_features_instead_of_ids() -> None:
    batch = Batch(None, None, {"mood": slice(0, 2)}, {}, {"mood": torch.tensor([1, 0])}, features=torch.ones(2, 3))
    moved = batch.to("meta")

    assert (len(moved), moved.ids, moved.mask) == (2, None, None)
    assert moved.features is not None
    assert moved.features.device.type == "meta"


@pytest.mark.parametrize("non_blocking", [False, True])
def test_moving_moves_what_the_network_takes(non_blocking: bool) -> None:
    batch = collate({"mood": rows(0), "topic": rows(2)}, TABLES, LABELS, pad_id=0)
    moved = batch.to("meta", non_blocking=non_blocking)
    tensors = tree_leaves([moved.ids, moved.mask, moved.labels])

    assert len(tensors) == 4
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert {tensor.device.type for tensor in moved.indices.values()} == {"cpu"}  # nobody asks for them there
    assert batch.ids is not None
    assert batch.ids.device.type == "cpu"
    assert (moved.slices, moved.sizes) == (batch.slices, batch.sizes)


@pytest.mark.parametrize(
    ("device", "non_blocking", "pinned"), [("cuda:1", True, 4), ("cuda", False, 0), ("mps", True, 0)]
)
def test_only_pinned_memory_is_copied_while_training_goes_on(
    device: str, non_blocking: bool, pinned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = collate({"mood": rows(0), "topic": rows(2)}, TABLES, LABELS, pad_id=0)
    calls: list[tuple[torch.Size, str]] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        calls.append((tensor.shape, "pin"))
        return tensor

    def to(tensor: torch.Tensor, where: torch.device, non_blocking: bool) -> torch.Tensor:
        calls.append((tensor.shape, str(where)))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    batch.to(device, non_blocking=non_blocking)
    assert [where for _, where in calls].count("pin") == pinned
    assert [where for _, where in calls].count(device) == 4


@pytest.mark.parametrize(
    ("plugin", "dtype"), [(HalfPrecision("bf16-true"), torch.bfloat16), (DoublePrecision(), torch.float64)]
)
def test_lightning_converts_features_and_leaves_the_rest(plugin: Any, dtype: torch.dtype) -> None:
    batch = collate({"mood": rows(0), "topic": rows(2)}, TABLES, LABELS, pad_id=0)
    batch.features = torch.ones(2, 3)
    converted = plugin.convert_input(batch)

    assert isinstance(converted, Batch)
    assert converted.features is not None
    assert converted.features.dtype == dtype
    assert converted.ids is not None
    assert converted.ids.dtype == torch.int64
    assert converted.slices == batch.slices
    assert batch.features.dtype == torch.float32


def test_rows_with_the_same_ids_stand_once_in_the_batch_and_each_finds_its_own() -> None:
    rows = [[5, 6], [7], [5, 6]]
    offsets = np.cumsum([0, *map(len, rows)])
    table = TokenTable(np.array([5, 6, 7, 5, 6], dtype=np.int32), offsets)
    step = {"a": np.array([0, 1]), "b": np.array([2, 1])}
    batch = collate(step, {"a": table, "b": table}, {}, pad_id=0)
    assert batch.ids is not None
    assert batch.inverse is not None
    assert batch.ids.tolist() == [[5, 6], [7, 0]]
    assert batch.ids[batch.inverse].tolist() == [[5, 6], [7, 0], [5, 6], [7, 0]]
    assert batch.sizes == {"a": 2, "b": 2}
