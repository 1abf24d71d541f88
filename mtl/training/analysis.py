"""Error analysis and sentence maps of a run, from the embeddings of the trained encoder."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mtl.activations.encoding import encode_table
from mtl.data.datamodule import EncodedSplit, Splits
from mtl.evaluation.errors import ErrorAnalysis, TrainingRows, analyse, surest_mistakes
from mtl.evaluation.run_summary import reported_split
from mtl.evaluation.scoring import Scored
from mtl.reporting.maps import SentenceMap, sentence_map
from mtl.training.plan import Setting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mtl.data.batch import RowActivations

    Embeddings = Mapping[str, NDArray[np.float32]]

log = logging.getLogger(__name__)
Encoded = Mapping[str, Mapping[str, EncodedSplit]]
Frozen = Mapping[tuple[str, str], "RowActivations"]


def analyse_errors(
    setting: Setting, splits: Encoded, scored: Mapping[str, Mapping[str, Scored]], frozen: Frozen | None
) -> dict[str, ErrorAnalysis]:
    """Return what goes wrong with each task on the split that its report shows.

    Where the encoder was trained, its training rows (up to ``evaluation.nearest_rows`` of each task) and the mistakes
    go through it once more. Nothing is analysed where ``data.most_batches`` takes a few rows of each split.

    Args:
        setting: What the run has settled.
        splits: Token ids of all rows.
        scored: Predictions of each task and split.
        frozen: The embeddings of a frozen encoder that are known, by task and split.
    """
    if not setting.config.evaluation.error_analysis or setting.config.data.most_batches is not None:
        return {}  # of a few rows it says nothing
    start = time.perf_counter()
    found = {}
    for task, each in scored.items():
        split = reported_split(each)
        if split is not None:
            found[task] = _analyse(setting, splits[task], task, split, each[split], frozen or {})
    seconds = time.perf_counter() - start
    if seconds >= 1:  # a wait that a reader wonders about
        log.info("error analysis: %.1f s", seconds)
    return found


def _analyse(
    setting: Setting, encoded: Mapping[str, EncodedSplit], task: str, split: str, scored: Scored, frozen: Frozen
) -> ErrorAnalysis:
    settings = setting.config.evaluation
    columns = setting.tasks[task].splits[split].extra
    rows = surest_mistakes(scored.predictions, settings.most_mistakes)
    if not len(rows) or not settings.nearest_rows:
        return analyse(split, scored.predictions, columns, rows)
    embeddings = embeddings_of(setting, encoded[split], frozen.get((task, split)), rows)
    training = _training_rows(setting, encoded["train"], task, frozen)
    return analyse(split, scored.predictions, columns, rows, embeddings, training)


def _training_rows(setting: Setting, encoded: EncodedSplit, task: str, frozen: Frozen) -> TrainingRows:
    examples, most = setting.tasks[task].train, setting.config.evaluation.nearest_rows
    rows = np.arange(len(examples))
    note = f"among all {len(examples):,} training rows"
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(setting.config.seed).choice(rows, most, replace=False))
        note = f"among {most:,} of {len(examples):,} training rows, drawn at random"
    chosen = examples.select(rows)
    embeddings = embeddings_of(setting, encoded, frozen.get((task, "train")), rows)
    return TrainingRows(chosen.texts, chosen.labels, chosen.sources(), embeddings, note)


def embeddings_of(
    setting: Setting, encoded: EncodedSplit, known: RowActivations | None, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the embeddings of some rows of a split, ``(M, H)``.

    Args:
        setting: What the run has settled; its encoder computes them.
        encoded: Token ids of the split.
        known: The embeddings of all its rows where the encoder is frozen.
        rows: Which rows, int64, ``(M,)``.
    """
    if known is not None:
        return known.gather(rows)[0]
    return encode_table(setting.start.network.encoder, encoded.table.select(rows), setting.encoding)


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
