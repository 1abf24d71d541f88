"""The LightningDataModule: interleaved training batches of all tasks, and each task's validation rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule

from mtl.data.batch import Batch, Boundary, EvalLoader, RowActivations, collate, collate_embeddings, collate_hidden
from mtl.data.buckets import Budget, generator
from mtl.data.order import OptimizerSteps, Rows, Step, StepSampler
from mtl.data.tokens import TokenTable

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TokenizedSplit:
    """The rows of one task in one split, as the network takes them."""

    table: TokenTable  # token ids of ``N`` rows
    labels: NDArray[np.int64]  # class ids, int64, ``(N,)``


Splits = dict[str, dict[str, TokenizedSplit]]
"""The splits of each task by name."""


@dataclass(frozen=True, slots=True)
class FrozenBelow:
    """The activations that stand for the frozen layers in a step of the optimizer."""

    boundary: Boundary
    rows: Mapping[tuple[str, str], RowActivations]  # the activations of each task's rows by split


class TrainLoader:
    """The batches of a sampler's steps. Lightning saves and restores it through its combined loader.

    It is not a ``DataLoader``: worker processes prefetch, so a saved position would not be the one that training has
    reached, and the rows are in memory or mapped already. A batch is made only when it is requested.

    One iteration yields the remaining batches of the current epoch. Lightning tells the sampler which epoch begins
    (`StepSampler.set_epoch`), so the rest of an epoch that ``limit_train_batches`` cut short is skipped.
    """

    def __init__(self, sampler: StepSampler, collate_fn: Callable[[Step], Batch]) -> None:
        self.sampler = sampler  # Lightning looks for it under this name
        self._collate = collate_fn

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        yield from map(self._collate, self.sampler)

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the sampler."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved position."""
        self.sampler.load_state_dict(state)


class MultiTaskDataModule(LightningDataModule):
    """Serves the tasks' batches to Lightning.

    Args:
        train: Each task's training rows.
        val: Each task's validation rows; tasks without any are left out.
        sampler: Owns the order of the training rows.
        pad_id: The tokenizer's padding id.
        eval_batch: The most rows and padded tokens of a validation batch.
        slots: For each task the row in each slot of a pass over its training rows, int64; by default that row itself.
        steps: Tells which optimizer step a batch belongs to; by default each batch is one of its own.
        frozen: Tells for an optimizer step (from 0) what stands for the frozen layers; nothing where all layers are to
            run. A training batch uses the freeze state of the step it will be trained in, even if it is made earlier; a
            validation batch that of the last finished step.
    """

    def __init__(
        self,
        train: Mapping[str, TokenizedSplit],
        val: Mapping[str, TokenizedSplit],
        sampler: StepSampler,
        *,
        pad_id: int,
        eval_batch: Budget,
        slots: Mapping[str, NDArray[np.int64]] | None = None,
        steps: OptimizerSteps | None = None,
        frozen: Callable[[int], FrozenBelow | None] = lambda _: None,
    ) -> None:
        super().__init__()
        self.train = dict(train)
        self.val = {task: split for task, split in val.items() if len(split.labels)}
        self.sampler = sampler
        self._pad_id = pad_id
        self._eval_batch = eval_batch
        self._slots = dict(slots or {})
        self.steps = steps or OptimizerSteps(len(sampler))
        self._frozen = frozen

    def train_dataloader(self) -> TrainLoader:
        """Return the interleaved training batches, one epoch for each iteration."""
        return TrainLoader(self.sampler, self._training_batch)

    def _training_batch(self, step: Step) -> Batch:
        """Return the batch of a step, however early it is made."""
        optimizer_step = self.steps.of(*divmod(step.number, len(self.sampler)))
        batch = self._collate("train", self.train, self._rows_of(step.rows), optimizer_step)
        if self.sampler.world_size > 1:
            whole = self._rows_of(step.whole)
            batch.whole = {task: torch.tensor(rows) for task, rows in whole.items()}
        return batch

    def _rows_of(self, slots: Rows) -> Rows:
        """Return the table row behind each slot number."""
        return {task: self._slots[task][own] if task in self._slots else own for task, own in slots.items()}

    def val_dataloader(self) -> Sequence[EvalLoader]:
        """Return one loader per task: batches of similar length in a random order, the same in all runs.

        So the first few, which is what ``limit_val_batches`` takes, are a sample of all of them, and each validation of
        each run takes the same ones. With several processes each has its share of each batch: all have equally many,
        some of them perhaps empty.
        """
        return [self._val_loader(task, split.table.lengths) for task, split in self.val.items()]

    def _val_loader(self, task: str, lengths: NDArray[np.int64]) -> EvalLoader:
        by_length = np.argsort(-lengths, kind="stable")
        rank, processes = self.sampler.rank, self.sampler.world_size
        batches = replace(self._eval_batch, world_size=processes).cut(by_length, lengths[by_length])
        order = generator("validation", task).permutation(len(batches))
        return EvalLoader(
            [{task: batches[at][rank::processes]} for at in order],
            lambda rows: self._collate("val", self.val, rows, self._last_step),
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Return the batch on ``device``."""
        del dataloader_idx
        return batch.to(device, non_blocking=True)

    def _collate(self, split: str, splits: Mapping[str, TokenizedSplit], rows: Rows, optimizer_step: int) -> Batch:
        labels = {task: splits[task].labels for task in rows}
        tables = {task: splits[task].table for task in rows}
        frozen = self._frozen(optimizer_step)
        if frozen is None:
            return collate(rows, tables, labels, self._pad_id)
        activations = {task: frozen.rows[task, split] for task in rows}
        if frozen.boundary == "embedding":
            return collate_embeddings(rows, activations, labels)
        return collate_hidden(rows, activations, tables, labels, frozen.boundary)

    @property
    def _last_step(self) -> int:
        """The last finished optimizer step: layers that are still frozen in it are unchanged."""
        return 0 if self.trainer is None else max(0, self.trainer.global_step - 1)
