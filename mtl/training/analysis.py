"""The error analysis of a run: which rows are compared with which, by the embeddings of the trained encoder."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mtl.activations.encoding import encode_table
from mtl.data.datamodule import EncodedSplit
from mtl.evaluation.error_analysis import ErrorAnalysis, TrainingRows, analyse, surest_mistakes
from mtl.evaluation.scoring import Scored
from mtl.evaluation.summary import reported_split
from mtl.training.plan import Setting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mtl.data.activations import RowActivations

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
