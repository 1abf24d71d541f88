"""Batches: the rows of a step, of one task or several, as ids or as cached activations, and loaders of such batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from mtl.data.buckets import Budget
from mtl.data.order import Rows
from mtl.data.tokens import TokenTable, distinct, pad

if TYPE_CHECKING:
    from numpy.typing import NDArray

Boundary = int | Literal["embedding"]
"""How far the encoder is frozen from the bottom: the number of frozen layers, or ``embedding`` for all of it."""


# Not frozen: for `bf16-true` and others Lightning rebuilds a batch field by field and refuses a frozen dataclass
# (`apply_to_collection` of lightning-utilities). Nothing here changes a batch, and nothing else should.
@dataclass(slots=True, eq=False)
class Batch:
    """The rows of a step: ``B`` rows over all tasks, those of one task next to each other.

    It has either ``ids`` and ``mask``, or ``features``, the cached activations of frozen layers.
    """

    ids: Tensor | None  # token ids, int64, ``(B, S)``, or None
    mask: Tensor | None  # true on tokens and false on padding, bool, ``(B, S)``, or None
    # The slice of each task's rows among the ``B``; the keys are the tasks of the step, in the order of their rows. A
    # slice is empty if only other processes have rows of the task.
    slices: dict[str, slice]
    # The class ids of each task's rows, int64, ``(B_task,)``; tasks without labels are not in it
    labels: dict[str, Tensor]
    indices: dict[str, Tensor]  # which rows of each task's table these are, int64, ``(B_task,)``
    features: Tensor | None = None  # cached activations, float, ``(B, ...)``, or None
    # If some rows have the same ids, ``ids`` and ``mask`` hold the ``D`` distinct rows, ``(D, S)``, and this is the
    # index of each row among them, int64, ``(B,)``
    inverse: Tensor | None = None
    # What ``features`` are: ``embedding``, ``(B, H)``, or the number of layers that computed the hidden states
    # ``(B, S, H)`` from which the encoder continues
    boundary: Boundary | None = None
    # If several processes share the step, the rows of each task in all of them, int64, on the CPU
    whole: dict[str, Tensor] | None = None

    def __len__(self) -> int:
        return max((span.stop for span in self.slices.values()), default=0)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of the step, in the order of their rows."""
        return tuple(self.slices)

    @property
    def sizes(self) -> dict[str, int]:
        """The number of rows of each task."""
        return {task: span.stop - span.start for task, span in self.slices.items()}

    @property
    def step_rows(self) -> dict[str, Tensor]:
        """The rows of each task in the step, over all processes."""
        return self.indices if self.whole is None else self.whole

    @property
    def shares(self) -> dict[str, float] | None:
        """This process's share of each task's rows; nothing where there is one process."""
        if self.whole is None:
            return None
        return {task: size / max(1, len(self.whole[task])) for task, size in self.sizes.items()}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the batch with the inputs of the network on ``device``; the indices stay where they are.

        With ``non_blocking`` a copy to a GPU is not waited for; the tensors are pinned first, which such a copy needs.
        """
        device = torch.device(device)
        pinned = non_blocking and device.type == "cuda"

        def move(tensor: Tensor) -> Tensor:
            return (tensor.pin_memory() if pinned and tensor.is_cpu else tensor).to(device, non_blocking=non_blocking)

        return replace(
            self,
            ids=None if self.ids is None else move(self.ids),
            mask=None if self.mask is None else move(self.mask),
            labels={task: move(labels) for task, labels in self.labels.items()},
            features=None if self.features is None else move(self.features),
            inverse=None if self.inverse is None else move(self.inverse),
        )


def collate(
    step: Rows, tables: Mapping[str, TokenTable], labels: Mapping[str, NDArray[np.int64]], pad_id: int
) -> Batch:
    """Gather the rows of a step into one batch, padded to the longest row over all its tasks.

    Rows with the same ids, also those of different tasks, go through the encoder as one.

    Args:
        step: The rows that each task gives, int64, ``(B_task,)``; the batch keeps the order of the tasks.
        tables: The token ids of each task's rows.
        labels: The class id of each row of a task's table, int64, ``(N_task,)``; a task without labels is left out.
        pad_id: The id to pad with.
    """
    all_ids = [ids for task, rows in step.items() for ids in tables[task].rows(rows)]
    kept, places = distinct(all_ids)
    ids, mask = pad([all_ids[at] for at in kept], pad_id)
    return _batch(step, labels, ids=ids, mask=mask, inverse=_inverse_of(kept, places))


def _inverse_of(kept: NDArray[np.int64], places: NDArray[np.int64]) -> Tensor | None:
    """Return the places of `distinct` as `Batch.inverse` has them: nothing where all rows differ."""
    return None if len(kept) == len(places) else torch.from_numpy(places)


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
    step: Rows, activations: Mapping[str, RowActivations], labels: Mapping[str, NDArray[np.int64]]
) -> Batch:
    """Gather the embeddings of the rows of a step into one batch; see `collate` for the arguments."""
    parts = [activations[task].gather(rows)[0] for task, rows in step.items()]
    features = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return _batch(step, labels, features=torch.from_numpy(features), boundary="embedding")


def collate_hidden(
    step: Rows,
    activations: Mapping[str, RowActivations],
    tables: Mapping[str, TokenTable],
    labels: Mapping[str, NDArray[np.int64]],
    boundary: int,
) -> Batch:
    """Gather the hidden states of the distinct rows of a step into one batch, padded to the longest; see `collate`.

    The token ids tell which rows are distinct; ``boundary`` is the layer from which the encoder continues.
    """
    kept, places = distinct(ids for task, rows in step.items() for ids in tables[task].rows(rows))
    wanted = np.zeros(len(places), dtype=bool)
    wanted[kept] = True
    parts = np.split(wanted, np.cumsum([len(rows) for rows in step.values()])[:-1])
    gathered = [activations[task].gather(rows[part]) for (task, rows), part in zip(step.items(), parts, strict=True)]
    values = torch.from_numpy(np.concatenate([hidden for hidden, _ in gathered]))
    features, mask = _padded(values, np.concatenate([lengths for _, lengths in gathered if lengths is not None]))
    return _batch(step, labels, features=features, mask=mask, inverse=_inverse_of(kept, places), boundary=boundary)


def _batch(
    step: Rows,
    labels: Mapping[str, NDArray[np.int64]],
    *,
    ids: Tensor | None = None,
    mask: Tensor | None = None,
    **fields: Any,
) -> Batch:
    stops = np.cumsum([len(rows) for rows in step.values()]).tolist()
    return Batch(
        ids=ids,
        mask=mask,
        slices={task: slice(stop - len(rows), stop) for (task, rows), stop in zip(step.items(), stops, strict=True)},
        labels={task: torch.tensor(labels[task][rows]) for task, rows in step.items() if task in labels},
        indices={task: torch.tensor(rows) for task, rows in step.items()},
        **fields,
    )


def _padded(values: Tensor, lengths: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Return hidden states ``(B, S, H)`` with zeros behind each row's end, and the mask ``(B, S)``."""
    mask = torch.from_numpy(np.arange(lengths.max(initial=0)) < lengths[:, None])
    features = values.new_zeros((*mask.shape, values.shape[-1]))
    features[mask] = values
    return features, mask


class EvalLoader:
    """The same batches in each iteration, made of the rows of each; Lightning counts them once."""

    def __init__(self, rows: Sequence[Rows], collate_fn: Callable[[Rows], Batch]) -> None:
        self._rows = rows
        self._collate = collate_fn

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Batch]:
        yield from map(self._collate, self._rows)


class TextLoader(EvalLoader):
    """The rows of a table without labels as a task ``text``, each once, from the longest to the shortest.

    Where ``outputs`` are those of all batches, ``restored[loader.indices] = outputs`` has the order of the table.
    """

    def __init__(self, table: TokenTable, budget: Budget, pad_id: int) -> None:
        lengths = table.lengths
        self.indices = np.argsort(-lengths, kind="stable")  # the rows in the order in which they come, int64 ``(N,)``
        batches = budget.cut(self.indices, lengths[self.indices])
        super().__init__([{"text": rows} for rows in batches], lambda rows: collate(rows, {"text": table}, {}, pad_id))
