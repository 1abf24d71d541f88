"""The LightningDataModule: which batches training and validation get, of token ids or of activations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from mtl.data.batch import ArrayActivations
from mtl.data.buckets import Budget
from mtl.data.datamodule import FrozenBelow, MultiTaskDataModule, TokenizedSplit
from mtl.data.order import OptimizerSteps, StepSampler
from mtl.data.tokens import TokenTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mtl.data.batch import Batch


def split(*lengths: int, start: int = 0) -> TokenizedSplit:
    """Return rows of these lengths; the first id of row ``i`` is ``start + i``, its class ``i`` modulo 2."""
    rows = [[start + at, *[7] * (length - 1)] for at, length in enumerate(lengths)]
    ids = np.array([each for row in rows for each in row], dtype=np.int32)
    return TokenizedSplit(TokenTable(ids, np.cumsum([0, *lengths], dtype=np.int64)), np.arange(len(lengths)) % 2)


TRAIN = {"mood": split(2, 3, 4, 5, start=100), "topic": split(2, 2, 3, 3, 4, 4, start=200)}
VAL = {"mood": split(2, 5, 3, start=300), "topic": split(start=400)}


def datamodule(
    budget: Budget | None = None,
    frozen: Callable[[int], FrozenBelow | None] = lambda _: None,
    steps: OptimizerSteps | None = None,
) -> MultiTaskDataModule:
    lengths = {task: each.table.lengths for task, each in TRAIN.items()}
    sampler = StepSampler(lengths, batch_size=2, seed=1)
    return MultiTaskDataModule(
        TRAIN, VAL, sampler, pad_id=9, eval_batch=budget or Budget(2), steps=steps, frozen=frozen
    )


def rows_of(batch: Batch, task: str) -> list[int]:
    return batch.indices[task].tolist()


def test_the_sampler_hands_out_slots_with_rows_behind_them() -> None:
    slots = {"topic": np.array([0, 0, 3, 5, 5, 5])}
    sampler = StepSampler({"topic": TRAIN["topic"].table.lengths[slots["topic"]]}, batch_size=2, seed=1)
    train = {"topic": TRAIN["topic"]}
    data = MultiTaskDataModule(train, VAL, sampler, pad_id=9, eval_batch=Budget(2), slots=slots)
    batches = list(data.train_dataloader())
    assert sorted(row for batch in batches for row in rows_of(batch, "topic")) == [0, 0, 3, 5, 5, 5]
    for batch in batches:
        assert batch.labels["topic"].tolist() == [row % 2 for row in rows_of(batch, "topic")]


def test_training_batches_are_the_steps_of_the_sampler() -> None:
    batches = list(datamodule().train_dataloader())
    assert len(batches) == len(datamodule().train_dataloader()) == 3
    assert all(batch.tasks == ("mood", "topic") for batch in batches)
    assert sorted(row for batch in batches for row in rows_of(batch, "topic")) == [0, 1, 2, 3, 4, 5]
    for batch in batches:
        assert batch.ids is not None
        for task, span in batch.slices.items():
            first = TRAIN[task].table.rows(rows_of(batch, task))
            assert batch.ids[span, 0].tolist() == [int(row[0]) for row in first]
            assert batch.labels[task].tolist() == [row % 2 for row in rows_of(batch, task)]


def test_tasks_without_validation_rows_are_left_out() -> None:
    data = datamodule()
    assert list(data.val) == ["mood"]
    (loader,) = data.val_dataloader()
    batches = [rows_of(batch, "mood") for batch in loader]
    assert sorted(batches) == [[0], [1, 2]]  # of similar length
    assert len(loader) == 2
    assert [rows_of(batch, "mood") for batch in loader] == batches  # again


def test_the_first_validation_batches_are_a_sample_of_all() -> None:
    """They are what ``limit_val_batches`` takes."""
    rng = np.random.default_rng(3)
    rows = split(*rng.integers(2, 60, size=400).tolist())
    sampler = StepSampler({"mood": TRAIN["mood"].table.lengths}, batch_size=2, seed=1)
    train = {"mood": TRAIN["mood"]}
    shares = [MultiTaskDataModule(train, {"mood": rows}, sampler, pad_id=9, eval_batch=Budget(8)) for _ in range(2)]
    orders = [[rows_of(batch, "mood") for batch in data.val_dataloader()[0]] for data in shares]
    assert orders[0] == orders[1]
    assert sorted(row for batch in orders[0] for row in batch) == list(range(400))
    lengths = rows.table.lengths
    first = np.mean([lengths[batch].mean() for batch in orders[0][:10]])
    assert abs(first - lengths.mean()) < 3 * lengths.std() / np.sqrt(10)
    for batch in orders[0]:
        assert np.ptp(lengths[batch]) < 6


def test_validation_batches_keep_to_their_budget() -> None:
    (loader,) = datamodule(Budget(8, max_tokens=6)).val_dataloader()
    assert sorted(rows_of(batch, "mood") for batch in loader) == [[1], [2, 0]]


def embeddings(task: str, split_name: str, rows: TokenizedSplit) -> NDArray[np.float32]:
    seed = sum(map(ord, task + split_name))
    return np.random.default_rng(seed).normal(size=(len(rows.labels), 4)).astype(np.float32)


ALL = {(task, name): rows for name, splits in (("train", TRAIN), ("val", VAL)) for task, rows in splits.items()}
VECTORS = {each: embeddings(*each, rows) for each, rows in ALL.items()}


def test_a_frozen_encoder_is_stood_for_by_embeddings() -> None:
    below = FrozenBelow("embedding", {each: ArrayActivations(values) for each, values in VECTORS.items()})
    data = datamodule(frozen=lambda _: below)
    for batch in data.train_dataloader():
        assert batch.ids is None
        assert batch.features is not None
        for task, span in batch.slices.items():
            assert np.array_equal(batch.features[span].numpy(), VECTORS[task, "train"][rows_of(batch, task)])
    (loader,) = data.val_dataloader()
    for batch in loader:
        assert batch.features is not None
        assert np.array_equal(batch.features.numpy(), VECTORS["mood", "val"][rows_of(batch, "mood")])


class Hidden:
    """Hidden states of one row after the other: each token's id, twice."""

    def __init__(self, table: TokenTable) -> None:
        self._table = table

    def gather(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        found = self._table.rows(rows)
        values = np.concatenate([np.stack([row, row], axis=1) for row in found]).astype(np.float32)
        return values, np.array([len(row) for row in found])


def test_frozen_layers_are_stood_for_by_hidden_states() -> None:
    below = FrozenBelow(2, {each: Hidden(rows.table) for each, rows in ALL.items()})
    for batch in datamodule(frozen=lambda _: below).train_dataloader():
        assert batch.boundary == 2
        assert batch.features is not None
        assert batch.mask is not None
        for task, span in batch.slices.items():
            for at, row in zip(range(span.start, span.stop), rows_of(batch, task), strict=True):
                ids = TRAIN[task].table.row(row)
                assert batch.mask[at].sum() == len(ids)
                assert batch.features[at, : len(ids), 0].tolist() == ids.tolist()
                assert not batch.features[at, len(ids) :].any()


def test_a_training_batch_belongs_to_its_own_step_however_early_it_is_made() -> None:
    """Nothing of the trainer is asked, which may be batches behind: the sampler's position decides."""
    asked: list[int] = []
    steps = OptimizerSteps(batches=3, accumulate=2)
    data = datamodule(frozen=lambda step: asked.append(step), steps=steps)
    data.sampler.set_epoch(1)
    batches = iter(data.train_dataloader())
    made = [next(batches) for _ in range(3)]
    assert asked == [2, 2, 3]
    data.sampler.set_epoch(2)
    next(iter(data.train_dataloader()))
    assert asked == [2, 2, 3, 4]
    assert all(batch.ids is not None for batch in made)


def test_a_step_within_an_epoch_may_be_the_first_that_runs_all_layers() -> None:
    below = FrozenBelow("embedding", {each: ArrayActivations(values) for each, values in VECTORS.items()})
    data = datamodule(frozen=lambda step: below if step < 2 else None)
    kinds = [batch.ids is None for batch in data.train_dataloader()]
    assert len(kinds) > 2
    assert kinds == [step < 2 for step in range(len(kinds))]


def test_validation_asks_for_the_last_step_that_was_done() -> None:
    asked: list[int] = []
    data: Any = datamodule(frozen=lambda step: asked.append(step))
    (loader,) = data.val_dataloader()
    next(iter(loader))
    for done in (0, 1, 7):
        data.trainer = SimpleNamespace(global_step=done)
        next(iter(loader))
    assert asked == [0, 0, 0, 6]


def test_a_batch_moves_to_the_device() -> None:
    data = datamodule()
    batch = data.transfer_batch_to_device(next(iter(data.train_dataloader())), torch.device("meta"), 0)
    assert batch.ids is not None
    assert {tensor.device.type for tensor in (batch.ids, *batch.labels.values())} == {"meta"}


def test_no_validation_rows_at_all() -> None:
    lengths = {task: each.table.lengths for task, each in TRAIN.items()}
    data = MultiTaskDataModule(TRAIN, {}, StepSampler(lengths, batch_size=2), pad_id=9, eval_batch=Budget(2))
    assert data.val == {}
    assert list(data.val_dataloader()) == []
    with pytest.raises(StopIteration):
        next(iter(data.val_dataloader()))
