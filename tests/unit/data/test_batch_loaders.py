"""Loaders: positions under Lightning, stopped and resumed, and the order of evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from mtl.data.batch import Batch, TextLoader, collate
from mtl.data.buckets import Budget
from mtl.data.datamodule import TrainLoader
from mtl.data.order import StepSampler
from mtl.data.tokens import TokenTable

pytestmark = [
    # Lightning 2.6.6 makes a `LeafSpec` of every loader that is no collection; torch 2.13 has deprecated the class.
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
    # What Lightning says to every run that is resumed in its own folder.
    pytest.mark.filterwarnings(r"ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]

EPOCHS = 3
STEPS = 5


def table(*lengths: int) -> TokenTable:
    return TokenTable(np.arange(sum(lengths), dtype=np.int32), np.concatenate([[0], np.cumsum(lengths)]))


TABLES = {"mood": table(*[3, 4] * 4), "topic": table(*range(2, 22))}
LABELS = {"mood": np.arange(8) % 2, "topic": np.arange(20) % 3}


def loader(order: int = 1, **settings: Any) -> TrainLoader:
    lengths = {name: TABLES[name].lengths for name in list(TABLES)[::order]}
    sampler = StepSampler(lengths, **{"batch_size": 4, "seed": 1, **settings})
    return TrainLoader(sampler, lambda step: collate(step.rows, TABLES, LABELS, pad_id=0))


def seen(batch: Batch) -> dict[str, list[int]]:
    return {task: indices.tolist() for task, indices in batch.indices.items()}


class Recorder(LightningModule):
    """Learns nothing of use and keeps the rows it was shown, with the optimizer steps done before."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.rows: list[tuple[int, dict[str, list[int]]]] = []
        self.validations = 0

    def training_step(self, batch: Batch) -> torch.Tensor:
        self.rows.append((self.global_step, seen(batch)))
        return self.weight * len(batch)

    def validation_step(self, batch: Batch) -> None:
        self.validations += 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    folder: Path,
    train: TrainLoader,
    ckpt_path: Path | None = None,
    callback: ModelCheckpoint | None = None,
    **limits: Any,
) -> Recorder:
    module = Recorder()
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=callback is not None,
        callbacks=[callback] if callback else [],
        num_sanity_val_steps=0,
        **{"max_epochs": EPOCHS, **limits},
    )
    validation = TextLoader(TABLES["mood"], Budget(8), pad_id=0)
    trainer.fit(module, train, validation, ckpt_path=ckpt_path)
    return module


def checkpoints(folder: Path, **when: Any) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=folder / "checkpoints", filename="{step}", save_top_k=-1, **when)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, dict[str, list[int]]]]:
    module = fit(tmp_path_factory.mktemp("whole"), loader())
    expected = loader()
    assert [rows for _, rows in module.rows] == [seen(batch) for _ in range(EPOCHS) for batch in expected]
    assert module.validations == EPOCHS
    return module.rows


@pytest.mark.parametrize("order", [1, -1], ids=["same order", "tasks in another order"])
@pytest.mark.parametrize("step", [3, 6, 9, 12, 15])
def test_a_run_resumed_from_a_step_sees_the_rows_that_were_left(
    tmp_path: Path, whole: list[Any], step: int, order: int
) -> None:
    when = {"every_n_train_steps": 3}
    fit(tmp_path, loader(), callback=checkpoints(tmp_path, **when), max_steps=step, max_epochs=-1)
    path = tmp_path / "checkpoints" / f"step={step}.ckpt"
    module = fit(tmp_path, loader(order), path, checkpoints(tmp_path, **when))

    assert module.rows == whole[step:]


def test_the_saved_position_is_that_of_the_steps_done(tmp_path: Path) -> None:
    fit(tmp_path, loader(), callback=checkpoints(tmp_path, every_n_train_steps=3))
    states = {}
    for path in (tmp_path / "checkpoints").iterdir():
        loops = torch.load(path, weights_only=True)["loops"]["fit_loop"]
        (state,) = loops["state_dict"]["combined_loader"]
        states[path.stem] = (state["epoch"], state["step"])

    assert states == {f"step={step}": divmod(step, STEPS) for step in (3, 6, 9, 12, 15)}


@pytest.mark.parametrize(
    "when",
    [{"save_on_train_epoch_end": True}, {"save_on_train_epoch_end": False}, {"every_n_train_steps": STEPS}],
    ids=["end of the epoch", "end of validation", "last step"],
)
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_resumed_from_the_end_of_an_epoch_goes_on_with_the_next(
    tmp_path: Path, whole: list[Any], epoch: int, when: dict[str, Any]
) -> None:
    fit(tmp_path, loader(), callback=checkpoints(tmp_path, **when), max_epochs=epoch)
    path = tmp_path / "checkpoints" / f"step={epoch * STEPS}.ckpt"
    module = fit(tmp_path, loader(), path, checkpoints(tmp_path, **when))

    assert module.rows == whole[epoch * STEPS :]


@pytest.mark.parametrize("step", [2, 4, 7])
def test_a_run_resumed_from_a_validation_within_an_epoch(tmp_path: Path, whole: list[Any], step: int) -> None:
    when = {"save_on_train_epoch_end": False}
    fit(tmp_path, loader(), callback=checkpoints(tmp_path, **when), val_check_interval=2)
    path = tmp_path / "checkpoints" / f"step={step}.ckpt"
    module = fit(tmp_path, loader(), path, checkpoints(tmp_path, **when), val_check_interval=2)

    assert module.rows == whole[step:]


@pytest.mark.parametrize("max_tokens", [16, 40])
def test_every_epoch_is_whole_and_validated_under_a_token_budget(tmp_path: Path, max_tokens: int) -> None:
    train = loader(max_tokens=max_tokens, batch_size=7)
    module = fit(tmp_path, train, max_epochs=6)
    topics = [row for _, rows in module.rows for row in rows["topic"]]

    assert module.validations == 6
    assert len(module.rows) == 6 * len(train)
    assert sorted(topics) == sorted([*range(20)] * 6)


def test_limited_epochs_begin_with_the_first_step(tmp_path: Path) -> None:
    module = fit(tmp_path, loader(), limit_train_batches=2)
    expected = [seen(batch) for epoch in range(EPOCHS) for batch in _epoch(epoch)[:2]]

    assert [rows for _, rows in module.rows] == expected
    assert module.validations == EPOCHS


def _epoch(number: int) -> list[Batch]:
    train = loader()
    train.sampler.set_epoch(number)
    return list(train)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_batches_pass_lightnings_precisions(tmp_path: Path, precision: Any, whole: list[Any]) -> None:
    assert fit(tmp_path, loader(), precision=precision, max_epochs=1).rows == whole[:STEPS]


def test_a_loader_makes_nothing_before_it_is_asked() -> None:
    made = []
    train = loader()
    counting = TrainLoader(train.sampler, lambda step: made.append(step) or next(iter(train)))  # type: ignore[func-returns-value]
    iter(counting)
    iterator = iter(counting)
    assert (made, counting.state_dict()["step"]) == ([], 0)

    next(iterator)
    assert len(made) == 1


def test_the_loader_hands_the_position_on() -> None:
    first, second = loader(), loader()
    iterator = iter(first)
    for _ in range(2):
        next(iterator)
    second.load_state_dict(first.state_dict())

    assert len(second) == STEPS
    assert second.state_dict() == first.state_dict() == first.sampler.state_dict()
    assert [seen(batch) for batch in second] == [seen(batch) for batch in iterator]
    assert second.state_dict()["epoch"] == 1


@pytest.mark.parametrize("max_tokens", [None, 30, 3])
def test_encoding_takes_each_row_once(max_tokens: int | None) -> None:
    loader = TextLoader(TABLES["topic"], Budget(6, max_tokens), pad_id=0)
    for _ in range(2):
        batches = list(loader)
        assert len(batches) == len(loader)
        assert torch.cat([batch.indices["text"] for batch in batches]).tolist() == loader.indices.tolist()
    assert sorted(loader.indices.tolist()) == list(range(20))
    assert all(_within(batch, 6, max_tokens) for batch in batches)


def _within(batch: Batch, batch_size: int, max_tokens: int | None) -> bool:
    assert batch.ids is not None
    return len(batch) <= batch_size and (max_tokens is None or len(batch) == 1 or batch.ids.numel() <= max_tokens)


def test_encoding_goes_from_long_to_short() -> None:
    lengths = TABLES["topic"].lengths[TextLoader(TABLES["topic"], Budget(6), pad_id=0).indices]

    assert (np.diff(lengths) <= 0).all()


def test_encoding_needs_no_labels_and_no_rows() -> None:
    (batch,) = TextLoader(table(2, 1), Budget(6), pad_id=0)

    assert (batch.labels, batch.tasks) == ({}, ("text",))
    assert list(TextLoader(table(), Budget(6), pad_id=0)) == []
