"""The diagnosis of one task: data need, confusions, label suspects and duplicates, from its embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtl.data.tasks import TaskData
from mtl.diagnosis.cross_validation import Rows, out_of_sample
from mtl.diagnosis.data_need import ClassNeed, data_need
from mtl.diagnosis.duplicates import duplicates, text_groups
from mtl.diagnosis.suspects import Suspects, rank_suspects
from mtl.evaluation.metrics import report_of_rows
from mtl.evaluation.predictions import Predictions
from mtl.evaluation.records import TaskReport


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a task's data."""

    split: str  # ``train``, ``val`` or ``test``
    text: str
    label: str
    source: str  # its file and line


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Two rows with the same or nearly the same text; the first is a training row."""

    first: Row
    second: Row  # a later training row, or one of another split
    cosine: float  # the cosine of their embeddings
    same_text: bool  # whether the texts are equal but for case, white space and punctuation

    @property
    def kind(self) -> str:
        """The kind of problem: ``leak`` between splits, ``different labels``, or ``repeated``."""
        if self.second.split != "train":
            return "leak"
        return "repeated" if self.first.label == self.second.label else "different labels"


@dataclass(frozen=True, slots=True)
class TaskDiagnosis:
    """The diagnosis of one task."""

    task: str
    sizes: dict[str, int]  # rows of each split
    more: int  # the number of further rows whose gain ``needs`` estimates
    needs: list[ClassNeed]  # the largest gain first
    unseen: Predictions  # predictions of the training rows by heads that have not seen them
    report: TaskReport  # the metrics of ``unseen``
    suspects: Suspects
    duplicates: list[Duplicate]

    def of_kind(self, kind: str) -> list[Duplicate]:
        """Return the duplicates of a kind, see `Duplicate.kind`."""
        return [pair for pair in self.duplicates if pair.kind == kind]

    def ranked_suspects(self) -> Iterator[tuple[Row, str, float]]:
        """Yield the training rows in the order of `suspects`, each with its suggested label and its self-confidence."""
        suspects, unseen = self.suspects, self.unseen
        ranked = zip(suspects.order.tolist(), suspects.suggested.tolist(), suspects.scores.tolist(), strict=True)
        for at, suggested, score in ranked:
            row = Row("train", unseen.texts[at], unseen.labels[at], unseen.sources[at])
            yield row, unseen.classes[suggested], score


def diagnose_task(
    data: TaskData,
    embeddings: Mapping[str, NDArray[np.float32]],
    views: Sequence[NDArray[np.float32]],
    *,
    more: int,
    similar: float,
    seed: int,
) -> TaskDiagnosis:
    """Diagnose one task.

    Args:
        data: The rows of the task.
        embeddings: Embeddings of each split's rows ``(N, H)``, by an encoder that has not been trained on these rows.
        views: Other embeddings of the training rows, see `mtl.diagnosis.cross_validation.out_of_sample`.
        more: The number of further rows of a class whose gain is estimated.
        similar: The least cosine of near-duplicates.
        seed: Determines folds, draws and bootstrap samples.
    """
    random = np.random.default_rng(seed)
    train, val = (
        Rows(embeddings[split], data.labels.ids(data.splits[split]), data.splits[split].keys)
        for split in ("train", "val")
    )
    names = data.labels.names
    unseen = out_of_sample(train, len(names), random, views, title=f"{data.name}: cross-validation")
    predicted = unseen.probabilities.argmax(axis=1)
    return TaskDiagnosis(
        task=data.name,
        sizes={split: len(rows) for split, rows in data.splits.items()},
        more=more,
        needs=data_need(train, val, names, unseen.penalties[0], more, random, title=f"{data.name}: learning curves"),
        unseen=Predictions(
            classes=list(names),
            texts=data.train.texts,
            labels=[names[label] for label in train.labels.tolist()],
            predicted=[names[label] for label in predicted.tolist()],
            probabilities=unseen.probabilities,
            sources=data.train.sources(),
        ),
        report=report_of_rows(train.labels, predicted, names),
        suspects=rank_suspects(unseen.probabilities, train.labels),
        duplicates=_duplicates(data, embeddings, similar),
    )


def _duplicates(data: TaskData, embeddings: Mapping[str, NDArray[np.float32]], similar: float) -> list[Duplicate]:
    places = [(split, at) for split, rows in data.splits.items() for at in range(len(rows))]
    texts = [text for rows in data.splits.values() for text in rows.texts]
    vectors = np.concatenate([embeddings[split] for split in data.splits])

    def row(number: int) -> Row:
        split, at = places[number]
        rows = data.splits[split]
        return Row(split, rows.texts[at], rows.labels[at], rows.source(at))

    return [
        Duplicate(row(pair.first), row(pair.second), pair.cosine, pair.same_text)
        for pair in duplicates(vectors, text_groups(texts), len(data.train), similar)
    ]
