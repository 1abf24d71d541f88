"""The LightningDataModule: interleaved training batches of all tasks, and each task's validation rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from lightning.pytorch import LightningDataModule

from mtl.data.batching import Batch, collate
from mtl.data.interleaving import Step
from mtl.data.loading import EvalLoader, TrainLoader
from mtl.data.sampling import StepSampler
from mtl.data.tokenization import TokenTable

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class EncodedSplit:
    """The rows of one task in one split, as the network takes them.

    Attributes:
        table: Token ids of ``N`` rows.
        labels: Class ids, int64, ``(N,)``.
        features: Embeddings ``(N, H)`` where a frozen encoder has computed them already.
    """

    table: TokenTable
    labels: NDArray[np.int64]
    features: NDArray[np.float32] | None = None


class MultiTaskDataModule(LightningDataModule):
    """Serves the tasks' batches to Lightning.

    Args:
        train: Each task's training rows.
        val: Each task's validation rows; tasks without any are left out.
        sampler: Owns the order of the training rows.
        pad_id: The tokenizer's padding id.
        eval_batch_size: Rows of a validation batch.
        max_tokens: The most padded tokens of a validation batch.
    """

    def __init__(
        self,
        train: Mapping[str, EncodedSplit],
        val: Mapping[str, EncodedSplit],
        sampler: StepSampler,
        *,
        pad_id: int,
        eval_batch_size: int,
        max_tokens: int,
    ) -> None:
        super().__init__()
        self.train = dict(train)
        self.val = {task: split for task, split in val.items() if len(split.labels)}
        self.sampler = sampler
        self._pad_id = pad_id
        self._eval_batch_size = eval_batch_size
        self._max_tokens = max_tokens

    def train_dataloader(self) -> TrainLoader:
        """Return the interleaved training batches, one epoch for each iteration."""
        return TrainLoader(self.sampler, self._collate)

    def val_dataloader(self) -> Sequence[EvalLoader | FeatureLoader]:
        """Return one loader per task."""
        return [self._loader(task, split) for task, split in self.val.items()]

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Return the batch on ``device``."""
        del dataloader_idx
        return batch.to(device, non_blocking=True)

    def _loader(self, task: str, split: EncodedSplit) -> EvalLoader | FeatureLoader:
        if split.features is not None:
            return FeatureLoader(task, split)
        return EvalLoader(
            split.table,
            split.labels,
            task,
            batch_size=self._eval_batch_size,
            max_tokens=self._max_tokens,
            pad_id=self._pad_id,
        )

    def _collate(self, step: Step) -> Batch:
        if all(self.train[task].features is not None for task in step):
            return collate_features(step, self.train)
        tables = {task: self.train[task].table for task in step}
        return collate(step, tables, {task: self.train[task].labels for task in step}, self._pad_id)


class FeatureLoader:
    """All rows of a task as one batch of features: a head over them is one matrix product.

    Args:
        task: The name of the task in the batch.
        split: Its rows with their features.
    """

    def __init__(self, task: str, split: EncodedSplit) -> None:
        self._batch = collate_features({task: np.arange(len(split.labels))}, {task: split})

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Batch]:
        yield self._batch


def collate_features(step: Mapping[str, NDArray[np.int64]], splits: Mapping[str, EncodedSplit]) -> Batch:
    """Gather the features of the rows of a step.

    Args:
        step: The rows that each task gives, int64, ``(B_task,)``.
        splits: Each task's rows with their features.
    """
    slices: dict[str, slice] = {}
    parts: list[NDArray[np.float32]] = []
    for task, rows in step.items():
        features = splits[task].features
        if features is None:
            raise ValueError(f"the task {task} has no features")
        start = sum(map(len, parts))
        slices[task] = slice(start, start + len(rows))
        parts.append(features[rows])
    return Batch(
        ids=None,
        mask=None,
        slices=slices,
        labels={task: torch.from_numpy(splits[task].labels[rows]) for task, rows in step.items()},
        indices={task: torch.from_numpy(np.array(rows, dtype=np.int64)) for task, rows in step.items()},
        features=torch.from_numpy(np.concatenate(parts)),
    )
