"""Loaders, iterables of batches: for training with a position that is saved, for validation, and for encoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl.data.batch import Batch, collate
from mtl.data.buckets import Budget
from mtl.data.order import Rows, Step
from mtl.data.sampling import StepSampler
from mtl.data.tokens import TokenTable

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TrainLoader:
    """The batches of a sampler's steps. Lightning saves and restores it through its combined loader.

    It is not a ``DataLoader``: worker processes prefetch, so a saved position would not be the one that training has
    reached, and the rows are in memory or mapped already. A batch is made only when it is requested.

    One iteration yields the remaining batches of the current epoch. Lightning tells the sampler which epoch begins
    (`StepSampler.set_epoch`), so the rest of an epoch that ``limit_train_batches`` cut short is skipped.

    Args:
        sampler: Yields the steps. Lightning looks for it under this name.
        collate_fn: Makes the batch of a step.
    """

    def __init__(self, sampler: StepSampler, collate_fn: Callable[[Step], Batch]) -> None:
        self.sampler = sampler
        self._collate = collate_fn

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        yield from map(self._collate, self.sampler)

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the sampler, see `StepSampler.state_dict`."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved position, see `StepSampler.load_state_dict`."""
        self.sampler.load_state_dict(state)


class ValLoader:
    """The same batches in each validation, made of the rows of each; Lightning counts them once."""

    def __init__(self, rows: Sequence[Rows], collate_fn: Callable[[Rows], Batch]) -> None:
        self._rows = rows
        self._collate = collate_fn

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Batch]:
        yield from map(self._collate, self._rows)


class EvalLoader:
    """Batches of the rows of one task, each row once, from the longest to the shortest.

    Args:
        table: The token ids of the rows.
        labels: The class id of each row, int64, ``(N,)``, or None.
        task: The name of the task in the batches.
        batch_size: Maximum number of rows in a batch.
        max_tokens: Maximum number of tokens in a batch (rows times the longest row), or None. A longer row is a
            batch of its own.
        pad_id: The id to pad with.

    Attributes:
        indices: The rows in the order in which they come, int64, ``(N,)``: where ``outputs`` are those of all batches,
            ``restored[loader.indices] = outputs`` puts them in the order of the table.
    """

    def __init__(
        self,
        table: TokenTable,
        labels: NDArray[np.int64] | None,
        task: str,
        *,
        batch_size: int,
        max_tokens: int | None = None,
        pad_id: int,
    ) -> None:
        lengths = table.lengths
        self.indices: NDArray[np.int64] = np.argsort(-lengths, kind="stable")
        self._batches = Budget(batch_size, max_tokens).cut(self.indices, lengths[self.indices])
        self._tables = {task: table}
        self._labels = {} if labels is None else {task: labels}
        self._task = task
        self._pad_id = pad_id

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for rows in self._batches:
            yield collate({self._task: rows}, self._tables, self._labels, self._pad_id)
