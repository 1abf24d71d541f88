"""The maps of a run's pages: a sample of the tested rows, embedded before and after training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mtl.evaluation.summary import reported_split
from mtl.reporting.projection import SentenceMap, sentence_map
from mtl.training.analysis import Frozen, embeddings_of
from mtl.training.plan import Setting
from mtl.training.scores import Splits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Embeddings = Mapping[str, NDArray[np.float32]]

ROWS = 1000
"""Rows of a map, a sample of more: each costs two passes through the encoder."""


@dataclass(frozen=True)
class SentenceMaps:
    """What becomes the maps of all tasks once training is done.

    Attributes:
        rows: For each task the rows of the map among those of its reported split, ascending, int64, ``(N,)``.
        before: Their embeddings before training, ``(N, H)``.
    """

    rows: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    before: Embeddings = field(default_factory=dict)

    @classmethod
    def begin(cls, setting: Setting, splits: Splits, frozen: Frozen | None) -> SentenceMaps:
        """Draw the rows and embed them with the encoder as it is now; nothing where no pages are wanted.

        Args:
            setting: What the run has settled.
            splits: Token ids of all rows.
            frozen: The embeddings of a frozen encoder, by task and split.
        """
        if not setting.config.evaluation.figures:
            return cls()
        rows = {task: _drawn(setting, task, split) for task, split in _splits(setting).items()}
        return cls(rows, _embedded(setting, splits, rows, frozen))

    def end(self, setting: Setting, splits: Splits, frozen: Frozen | None) -> dict[str, SentenceMap]:
        """Return the map of each task, the encoder being trained now; see `begin`."""
        after = self.before if frozen is not None else _embedded(setting, splits, self.rows, None)
        return {task: sentence_map(self.before[task], after[task], rows) for task, rows in self.rows.items()}


def _splits(setting: Setting) -> dict[str, str]:
    """Return the split of each task that its report shows."""
    with_rows = {
        name: {split: None for split in ("val", "test") if len(task.splits[split])}
        for name, task in setting.tasks.items()
    }
    return {name: split for name, splits in with_rows.items() if (split := reported_split(splits)) is not None}


def _drawn(setting: Setting, task: str, split: str) -> NDArray[np.int64]:
    count = len(setting.tasks[task].splits[split])
    if count <= ROWS:
        return np.arange(count)
    return np.sort(np.random.default_rng(setting.config.seed).choice(count, ROWS, replace=False))


def _embedded(
    setting: Setting, splits: Splits, rows: Mapping[str, NDArray[np.int64]], frozen: Frozen | None
) -> Embeddings:
    where = _splits(setting)
    return {
        task: embeddings_of(setting, splits[task][where[task]], (frozen or {}).get((task, where[task])), each)
        for task, each in rows.items()
    }
