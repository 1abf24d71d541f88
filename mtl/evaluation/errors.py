"""Error analysis of one task: its most confident mistakes with the nearest training rows, and slices of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mtl.evaluation.predictions import Predictions, write_csv
from mtl.evaluation.slices import SliceFigures, slice_figures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]

NEAREST = 3
"""Training rows that are listed for each mistake."""
FOLDER = "errors"
_BLOCK = 1024  # training rows at a time: with 1000 mistakes 4 MB of similarities
_DECIMALS = 6
_SLICE_HEADER = (
    *("slice", "value", "rows", "accuracy", "accuracy_low", "accuracy_high"),
    *("macro_f1", "difference", "extra_errors", "beyond_noise"),
)
_MISTAKE_HEADER = (
    *("text", "label", "predicted", "probability", "margin", "source"),
    *(f"nearest_{at}_{part}" for at in range(1, NEAREST + 1) for part in ("text", "label", "source", "similarity")),
)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A training row near a mistake."""

    text: str
    label: str
    source: str  # its file and line
    similarity: float  # the cosine of the two embeddings, from -1 to 1


@dataclass(frozen=True, slots=True)
class Mistake:
    """A row with a wrong prediction."""

    text: str
    label: str  # its true class
    predicted: str
    probability: float  # the probability of the predicted class
    margin: float  # that probability minus the probability of the true class
    source: str  # its file and line
    nearest: tuple[Neighbour, ...] = ()  # the nearest training rows, the nearest first

    @property
    def contradicts(self) -> bool:
        """Whether most of the nearest training rows have the predicted class: one of the labels may be wrong."""
        votes = sum(neighbour.label == self.predicted for neighbour in self.nearest)
        return 2 * votes > len(self.nearest)


@dataclass(frozen=True, slots=True)
class ErrorAnalysis:
    """The mistakes of one task on one split."""

    split: str
    rows: int  # the number of its rows
    wrong: int  # the number of mistakes
    mistakes: Sequence[Mistake]  # the most confident mistakes, in that order
    slices: Sequence[SliceFigures]  # the metrics of its slices, those that need attention first
    note: str = ""  # which training rows were searched for the nearest ones


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """The ``M`` training rows that are searched for the nearest ones."""

    texts: Sequence[str]
    labels: Sequence[str]
    sources: Sequence[str]  # their files and lines
    embeddings: Floats  # ``(M, H)``
    note: str = ""  # which training rows they are, for the reader


def analyse(
    split: str,
    predictions: Predictions,
    columns: Mapping[str, Sequence[str]],
    rows: NDArray[np.int64],
    embeddings: Floats | None = None,
    training: TrainingRows | None = None,
) -> ErrorAnalysis:
    """Return the error analysis of a task on a split.

    ``rows`` are the mistakes to list, the first of `Predictions.mistakes`, ``(M,)``, with their ``embeddings``
    ``(M, H)``; the user's ``columns`` divide the rows of the split into slices.
    """
    neighbours: list[tuple[Neighbour, ...]] = [()] * len(rows)
    if embeddings is not None and training is not None:
        neighbours = _neighbours(embeddings, training)
    confidence, true = predictions.confidence(), predictions.ids(predictions.labels)
    mistakes = []
    for row, near in zip(rows.tolist(), neighbours, strict=True):
        probability, of_label = float(confidence[row]), float(predictions.probabilities[row, true[row]])
        text, label, predicted = predictions.texts[row], predictions.labels[row], predictions.predicted[row]
        margin, source = probability - of_label, predictions.sources[row]
        mistakes.append(Mistake(text, label, predicted, probability, margin, source, near))
    return ErrorAnalysis(
        split=split,
        rows=len(predictions),
        wrong=len(predictions.mistakes()),
        mistakes=mistakes,
        slices=slice_figures(predictions.texts, predictions.labels, predictions.predicted, columns),
        note="" if training is None else training.note,
    )


def _neighbours(embeddings: Floats, training: TrainingRows) -> list[tuple[Neighbour, ...]]:
    places, cosines = nearest(embeddings, training.embeddings)
    return [
        tuple(
            Neighbour(training.texts[at], training.labels[at], training.sources[at], min(1.0, cosine))
            for at, cosine in zip(row, values, strict=True)
        )
        for row, values in zip(places.tolist(), cosines.tolist(), strict=True)
    ]


def nearest(
    queries: Floats, bank: Floats, count: int = NEAREST, *, unit: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return for each query the rows of ``bank`` with the greatest cosine, in that order; of equal ones the first.

    Computed in blocks of the bank, so that memory does not grow with ``M`` times ``N``.

    Args:
        queries: ``(M, H)``.
        bank: ``(N, H)``.
        count: The number of rows for each query.
        unit: Whether the rows of ``bank`` are those of `unit_rows`.

    Returns:
        Row numbers and cosines, ``(M, min(count, N))`` each; the cosine with a vector of zeros is 0.
    """
    units = unit_rows(queries)
    best = np.empty((len(queries), 0), dtype=np.float32)
    places = np.empty((len(queries), 0), dtype=np.int64)
    for start in range(0, len(bank), _BLOCK):
        block = bank[start : start + _BLOCK]
        cosines = units @ (block if unit else unit_rows(block)).T
        here = np.broadcast_to(np.arange(start, start + cosines.shape[1]), cosines.shape)
        best, places = np.hstack([best, cosines]), np.hstack([places, here])
        order = _greatest(best, count)
        best, places = np.take_along_axis(best, order, axis=1), np.take_along_axis(places, order, axis=1)
    return places, best


def _greatest(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the columns of the ``count`` greatest values of each row, in that order; of equal ones the first.

    For few values, repeated searches are many times faster than sorting all of them.
    """
    left = values.copy()
    rows = np.arange(len(values))
    order = np.empty((len(values), min(count, values.shape[1])), dtype=np.int64)
    for at in range(order.shape[1]):
        order[:, at] = left.argmax(axis=1)
        left[rows, order[:, at]] = -np.inf
    return order


def unit_rows(vectors: Floats) -> NDArray[np.float32]:
    """Return vectors ``(N, H)`` divided by their lengths; those of zeros as they are."""
    values = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 0)
    return unit


def write_errors(run: str | Path, task: str, analysis: ErrorAnalysis) -> None:
    """Write the mistakes and the slices of a task into a run folder, each file whole or not at all."""
    folder, name = Path(run) / FOLDER, f"{task}_{analysis.split}"
    write_csv(folder / f"{name}.csv", [_MISTAKE_HEADER, *map(_mistake_cells, analysis.mistakes)])
    write_csv(folder / f"{name}_slices.csv", [_SLICE_HEADER, *map(_slice_cells, analysis.slices)])


def _mistake_cells(mistake: Mistake) -> list[str | float]:
    cells: list[str | float] = [mistake.text, mistake.label, mistake.predicted]
    cells += [round(mistake.probability, _DECIMALS), round(mistake.margin, _DECIMALS), mistake.source]
    for near in mistake.nearest:
        cells += [near.text, near.label, near.source, round(near.similarity, _DECIMALS)]
    return cells + [""] * (4 * (NEAREST - len(mistake.nearest)))


def _slice_cells(row: SliceFigures) -> list[str | float]:
    numbers = (row.accuracy, row.low, row.high, row.macro_f1, row.difference, row.extra_errors)
    rounded = (round(number, _DECIMALS) for number in numbers)
    return [row.kind, row.value, row.support, *rounded, "yes" if row.beyond_noise else "no"]
