"""Batches of activations: what the frozen layers below a boundary gave for the rows of a step, instead of token ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mtl.data.batching import Batch, inverse_of
from mtl.data.tokenization import TokenTable, distinct

if TYPE_CHECKING:
    from numpy.typing import NDArray


class RowActivations(Protocol):
    """The activations of each row of one task's split."""

    def gather(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
        """Return those of ``rows`` ``(B,)``: embeddings ``(B, H)``, or hidden states ``(sum(lengths), H)``.

        Behind hidden states, which stand one row after the other, come the lengths of the rows, ``(B,)``.
        """
        ...


class ArrayActivations:
    """Embeddings ``(N, H)`` in memory."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        self.values = values

    def gather(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], None]:
        """Return the embeddings of ``rows``."""
        return self.values.take(rows, axis=0), None  # the same as [rows], in half the time


def collate_embeddings(
    step: Mapping[str, NDArray[np.int64]],
    activations: Mapping[str, RowActivations],
    labels: Mapping[str, NDArray[np.int64]],
) -> Batch:
    """Gather the embeddings of the rows of a step into one batch.

    Args:
        step: The rows that each task gives, int64, ``(B_task,)``.
        activations: The embeddings of each task's rows.
        labels: The class id of each row of a task.
    """
    parts = [activations[task].gather(rows)[0] for task, rows in step.items()]
    features = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return _batch(step, labels, features=torch.from_numpy(features))


def collate_hidden(
    step: Mapping[str, NDArray[np.int64]],
    activations: Mapping[str, RowActivations],
    tables: Mapping[str, TokenTable],
    labels: Mapping[str, NDArray[np.int64]],
    boundary: int,
) -> Batch:
    """Gather the hidden states of the distinct rows of a step into one batch, padded to the longest.

    Args:
        step: The rows that each task gives, int64, ``(B_task,)``.
        activations: The hidden states of each task's rows.
        tables: The token ids of each task's rows, which tell what is distinct.
        labels: The class id of each row of a task.
        boundary: The layer from which the encoder goes on.
    """
    kept, places = distinct(ids for task, rows in step.items() for ids in tables[task].rows(rows))
    wanted = np.zeros(len(places), dtype=bool)
    wanted[kept] = True
    parts = np.split(wanted, np.cumsum([len(rows) for rows in step.values()])[:-1])
    found = [activations[task].gather(rows[part]) for (task, rows), part in zip(step.items(), parts, strict=True)]
    values = torch.from_numpy(np.concatenate([hidden for hidden, _ in found]))
    features, mask = _padded(values, np.concatenate([lengths for _, lengths in found if lengths is not None]))
    return _batch(step, labels, features=features, mask=mask, inverse=inverse_of(kept, places), boundary=boundary)


def _batch(step: Mapping[str, NDArray[np.int64]], labels: Mapping[str, NDArray[np.int64]], **fields: Any) -> Batch:
    stops = np.cumsum([len(rows) for rows in step.values()]).tolist()
    return Batch(
        ids=None,
        slices={task: slice(stop - len(rows), stop) for (task, rows), stop in zip(step.items(), stops, strict=True)},
        labels={task: _ids(labels[task][rows]) for task, rows in step.items()},
        indices={task: _ids(rows) for task, rows in step.items()},
        **{"mask": None, **fields},
    )


def _padded(values: Tensor, lengths: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Return hidden states ``(B, S, H)`` with zeros behind each row's end, and the mask ``(B, S)``."""
    mask = torch.from_numpy(np.arange(lengths.max(initial=0)) < lengths[:, None])
    features = values.new_zeros((*mask.shape, values.shape[-1]))
    features[mask] = values
    return features, mask


def _ids(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.int64))
