"""Loaders, iterables of batches: for training with a position that is saved, for validation, and for encoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mtl.data.batch import Batch, collate
from mtl.data.buckets import Budget
from mtl.data.order import Rows, Step
from mtl.data.sampling import StepSampler
from mtl.data.tokens import TokenTable


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
        """Return the position of the sampler."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved position."""
        self.sampler.load_state_dict(state)


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

    Attributes:
        indices: The rows in the order in which they come, int64, ``(N,)``: where ``outputs`` are those of all batches,
            ``restored[loader.indices] = outputs`` puts them in the order of the table.
    """

    def __init__(self, table: TokenTable, budget: Budget, pad_id: int) -> None:
        lengths = table.lengths
        self.indices = np.argsort(-lengths, kind="stable")
        batches = budget.cut(self.indices, lengths[self.indices])
        super().__init__([{"text": rows} for rows in batches], lambda rows: collate(rows, {"text": table}, {}, pad_id))
