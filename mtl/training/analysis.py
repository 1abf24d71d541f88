"""Error analysis and sentence maps of a run, from the embeddings of the trained encoder."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mtl.activations.encoding import encode_table
from mtl.data.datamodule import Splits
from mtl.evaluation.errors import ErrorAnalysis, TrainingRows, analyse
from mtl.evaluation.run_summary import reported_split
from mtl.evaluation.scoring import Scored
from mtl.reporting.maps import SentenceMap, sentence_map
from mtl.training.plan import RunPlan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mtl.data.batch import RowActivations

log = logging.getLogger(__name__)
Place = tuple[str, str]
"""A task and one of its splits."""
Frozen = Mapping[Place, "RowActivations"]


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
            analyses[task] = _analyse(plan, splits, (task, split), of_splits[split], frozen)
    seconds = time.perf_counter() - start
    if seconds >= 1:
        log.info("error analysis: %.1f s", seconds)
    return analyses


def _analyse(plan: RunPlan, splits: Splits, place: Place, scored: Scored, frozen: Frozen | None) -> ErrorAnalysis:
    settings, (task, split) = plan.config.evaluation, place
    columns = plan.tasks[task].splits[split].extra
    rows = scored.predictions.mistakes()[: settings.most_mistakes]
    if not len(rows) or not settings.nearest_rows:
        return analyse(split, scored.predictions, columns, rows)
    examples = plan.tasks[task].train
    nearest = _drawn(len(examples), settings.nearest_rows, plan.config.seed)
    note = f"among all {len(examples):,} training rows"
    if len(nearest) < len(examples):
        note = f"among {len(nearest):,} of {len(examples):,} training rows, drawn at random"
    chosen = examples.select(nearest)
    embeddings = _embeddings(plan, splits, (task, "train"), nearest, frozen)
    training = TrainingRows(chosen.texts, chosen.labels, chosen.sources(), embeddings, note)
    of_mistakes = _embeddings(plan, splits, place, rows, frozen)
    return analyse(split, scored.predictions, columns, rows, of_mistakes, training)


def _drawn(count: int, most: int, seed: int) -> NDArray[np.int64]:
    """Return at most so many rows of ``count``, ascending, int64."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _embeddings(
    plan: RunPlan, splits: Splits, place: Place, rows: NDArray[np.int64], frozen: Frozen | None
) -> NDArray[np.float32]:
    """Return the embeddings ``(M, H)`` of some rows (int64, ``(M,)``) of a task's split.

    With a frozen encoder the embeddings of all rows are known already.
    """
    if frozen is not None and place in frozen:
        return frozen[place].gather(rows)[0]
    table = splits[place[0]][place[1]].table
    return encode_table(plan.start.network.encoder, table.select(rows), plan.encoding)


ROWS = 1000
"""The most rows of a map: each takes two passes through the encoder."""


@dataclass(frozen=True)
class SentenceMaps:
    """The sentence maps of all tasks before training."""

    rows: Mapping[Place, NDArray[np.int64]]  # the rows of each task's map in its reported split, ascending, ``(N,)``
    before: Mapping[Place, NDArray[np.float32]]  # their embeddings before training, ``(N, H)``

    @classmethod
    def begin(cls, plan: RunPlan, splits: Splits, frozen: Frozen | None) -> SentenceMaps:
        """Draw the rows and encode them with the current encoder; the maps are empty without ``evaluation.figures``."""
        if not plan.config.evaluation.figures:
            return cls({}, {})
        rows = {}
        for name, task in plan.tasks.items():
            sizes = {split: len(task.splits[split]) for split in ("val", "test") if len(task.splits[split])}
            if (split := reported_split(sizes)) is not None:
                rows[name, split] = _drawn(sizes[split], ROWS, plan.config.seed)
        return cls(rows, {place: _embeddings(plan, splits, place, drawn, frozen) for place, drawn in rows.items()})

    def end(self, plan: RunPlan, splits: Splits, frozen: Frozen | None) -> dict[str, SentenceMap]:
        """Return the map of each task with the trained encoder; see `begin`."""
        maps = {}
        for place, rows in self.rows.items():
            before = self.before[place]
            after = before if frozen is not None else _embeddings(plan, splits, place, rows, None)
            maps[place[0]] = sentence_map(before, after, rows)
        return maps
