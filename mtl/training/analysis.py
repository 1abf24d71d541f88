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
from mtl.evaluation.errors import ErrorAnalysis, TrainingRows, analyse
from mtl.evaluation.run_summary import reported_split
from mtl.evaluation.scoring import Scored
from mtl.reporting.maps import SentenceMap, sentence_map
from mtl.training.plan import RunPlan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mtl.data.batch import RowActivations

    Embeddings = Mapping[str, NDArray[np.float32]]

log = logging.getLogger(__name__)
Frozen = Mapping[tuple[str, str], "RowActivations"]


def analyse_errors(
    plan: RunPlan, splits: Splits, scored: Mapping[str, Mapping[str, Scored]], frozen: Frozen | None
) -> dict[str, ErrorAnalysis]:
    """Return the error analysis of each task on the split of its report.

    A trained encoder encodes the training rows (up to ``evaluation.nearest_rows`` of each task) and the mistakes again.
    There is no analysis if ``data.most_batches`` limits the run to a few rows.
    """
    if not plan.config.evaluation.error_analysis or plan.config.data.most_batches is not None:
        return {}
    start = time.perf_counter()
    analyses = {}
    for task, of_splits in scored.items():
        split = reported_split(of_splits)
        if split is not None:
            analyses[task] = _analyse(plan, splits[task], task, split, of_splits[split], frozen or {})
    seconds = time.perf_counter() - start
    if seconds >= 1:
        log.info("error analysis: %.1f s", seconds)
    return analyses


def _analyse(
    plan: RunPlan, encoded: Mapping[str, EncodedSplit], task: str, split: str, scored: Scored, frozen: Frozen
) -> ErrorAnalysis:
    settings = plan.config.evaluation
    columns = plan.tasks[task].splits[split].extra
    rows = scored.predictions.mistakes()[: settings.most_mistakes]
    if not len(rows) or not settings.nearest_rows:
        return analyse(split, scored.predictions, columns, rows)
    embeddings = embeddings_of(plan, encoded[split], frozen.get((task, split)), rows)
    training = _training_rows(plan, encoded["train"], task, frozen)
    return analyse(split, scored.predictions, columns, rows, embeddings, training)


def _training_rows(plan: RunPlan, encoded: EncodedSplit, task: str, frozen: Frozen) -> TrainingRows:
    examples, most = plan.tasks[task].train, plan.config.evaluation.nearest_rows
    rows = np.arange(len(examples))
    note = f"among all {len(examples):,} training rows"
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(plan.config.seed).choice(rows, most, replace=False))
        note = f"among {most:,} of {len(examples):,} training rows, drawn at random"
    chosen = examples.select(rows)
    embeddings = embeddings_of(plan, encoded, frozen.get((task, "train")), rows)
    return TrainingRows(chosen.texts, chosen.labels, chosen.sources(), embeddings, note)


def embeddings_of(
    plan: RunPlan, encoded: EncodedSplit, known: RowActivations | None, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the embeddings ``(M, H)`` of some rows (int64, ``(M,)``) of a split.

    With a frozen encoder the embeddings of all rows are known already.
    """
    if known is not None:
        return known.gather(rows)[0]
    return encode_table(plan.start.network.encoder, encoded.table.select(rows), plan.encoding)


ROWS = 1000
"""The most rows of a map: each takes two passes through the encoder."""


@dataclass(frozen=True)
class SentenceMaps:
    """The sentence maps of all tasks before training.

    Attributes:
        rows: The rows of each task's map in its reported split, ascending, int64, ``(N,)``.
        before: Their embeddings before training, ``(N, H)``.
    """

    rows: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    before: Embeddings = field(default_factory=dict)

    @classmethod
    def begin(cls, plan: RunPlan, splits: Splits, frozen: Frozen | None) -> SentenceMaps:
        """Draw the rows and encode them with the current encoder; the maps are empty without ``evaluation.figures``."""
        if not plan.config.evaluation.figures:
            return cls()
        rows = {task: _drawn(plan, task, split) for task, split in _splits(plan).items()}
        return cls(rows, _embedded(plan, splits, rows, frozen))

    def end(self, plan: RunPlan, splits: Splits, frozen: Frozen | None) -> dict[str, SentenceMap]:
        """Return the map of each task with the trained encoder; see `begin`."""
        after = self.before if frozen is not None else _embedded(plan, splits, self.rows, None)
        return {task: sentence_map(self.before[task], after[task], rows) for task, rows in self.rows.items()}


def _splits(plan: RunPlan) -> dict[str, str]:
    """Return the split of each task's report."""
    with_rows = {
        name: {split: None for split in ("val", "test") if len(task.splits[split])} for name, task in plan.tasks.items()
    }
    return {name: split for name, splits in with_rows.items() if (split := reported_split(splits)) is not None}


def _drawn(plan: RunPlan, task: str, split: str) -> NDArray[np.int64]:
    count = len(plan.tasks[task].splits[split])
    if count <= ROWS:
        return np.arange(count)
    return np.sort(np.random.default_rng(plan.config.seed).choice(count, ROWS, replace=False))


def _embedded(
    plan: RunPlan, splits: Splits, rows: Mapping[str, NDArray[np.int64]], frozen: Frozen | None
) -> Embeddings:
    where = _splits(plan)
    return {
        task: embeddings_of(plan, splits[task][where[task]], (frozen or {}).get((task, where[task])), drawn)
        for task, drawn in rows.items()
    }
