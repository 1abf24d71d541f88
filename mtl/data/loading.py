"""Loaders: plain iterables of batches for training, with a position to save, and for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl.data.batching import Batch, collate
from mtl.data.bucketing import Budget
from mtl.data.interleaving import Step
from mtl.data.sampling import StepSampler
from mtl.data.tokenization import TokenTable

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TrainLoader:
    """The batches of a sampler's steps. Lightning saves and restores it through its combined loader.

    It is no ``DataLoader``: worker processes fetch ahead, so a position saved in between is not the one that training
    has reached, and the rows are in memory or mapped already. A batch is made when it is asked for and not before, and
    so the position is right at any time.

    One iteration gives the batches left of the current epoch. Lightning tells the sampler the epoch it begins
    (`StepSampler.set_epoch`), so the rest of an epoch that ``limit_train_batches`` broke off is left out, as with any
    loader.

    Args:
        sampler: Says which rows each step takes. Lightning looks for it under this name.
        collate_fn: Makes a batch of the rows of a step.
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
        """Go to a saved position, see `StepSampler.load_state_dict`.

        Raises:
            ConfigError: The state is of other tasks, rows or settings; all differences together.
        """
        self.sampler.load_state_dict(state)


class EvalLoader:
    """The rows of one task, each exactly once, in batches of similar length, from long to short.

    Args:
        table: The token ids of the rows.
        labels: The class id of each row, int64, ``(N,)``; nothing where there are none.
        task: The name of the task in the batches.
        batch_size: The most rows of a batch.
        max_tokens: The most tokens of a batch (rows times the longest row); nothing for no such limit. A row that is
            longer by itself is a batch of its own.
        pad_id: The id to pad with.
        rank: The number of this process; it has every ``world_size``-th row of the order by length.
        world_size: The number of processes.

    Attributes:
        indices: The rows of this process in the order in which they come, int64: where ``outputs`` are those of all
            batches, ``restored[loader.indices] = outputs`` puts them in the order of the table.
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
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        lengths = table.lengths
        self.indices: NDArray[np.int64] = np.argsort(-lengths, kind="stable")[rank::world_size]
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
