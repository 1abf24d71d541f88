"""The table of mistakes: searchable, sortable, the surest mistakes first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mtl.base import formatting
from mtl.evaluation.predictions import Predictions
from mtl.reporting.page import paragraph
from mtl.reporting.page_tables import Cell, table

MOST = 1500
"""A page lists at most so many mistakes; the files of predictions hold all."""
_SENTENCE = 400  # characters


@dataclass(frozen=True, slots=True)
class _Mistake:
    task: str
    text: str
    label: str
    predicted: str
    sure: float
    others: str
    source: str


def errors_table(
    tasks: Mapping[str, Predictions], others: Mapping[str, Sequence[Predictions]] | None = None, most: int = MOST
) -> str:
    """Return the mistakes of all tasks as a table, or a sentence where there are none.

    Args:
        tasks: The predictions of each task.
        others: For each task, predictions of other runs over the same rows: how many of them are right is told.
        most: How many to list at most.
    """
    found = sorted(
        (each for task in tasks for each in _mistakes(task, tasks[task], others)), key=lambda each: -each.sure
    )
    if not found:
        return paragraph("No row was taken for another class.")
    header = ["sentence", "label", "predicted", "probability", "task", *(["right elsewhere"] if others else []), "row"]
    rows: list[list[Cell | str]] = [
        [
            Cell(formatting.shortened(each.text, _SENTENCE), kind="sentence"),
            each.label,
            Cell(each.predicted, kind="wrong"),
            Cell(formatting.score(each.sure), each.sure),
            each.task,
            *([each.others] if others else []),
            each.source,
        ]
        for each in found[:most]
    ]
    more = f" (the surest {most:,}; the others are in the files of predictions)" if len(found) > most else ""
    caption = f"{len(found):,} mistakes{more}, the surest first"
    return table(caption, header, rows, search="Search the mistakes")


def _mistakes(
    task: str, predictions: Predictions, others: Mapping[str, Sequence[Predictions]] | None
) -> Iterator[_Mistake]:
    place = {name: at for at, name in enumerate(predictions.classes)}
    rest = (others or {}).get(task, [])
    rows = zip(predictions.texts, predictions.labels, predictions.predicted, predictions.sources, strict=True)
    for at, (text, label, predicted, source) in enumerate(rows):
        if label != predicted:
            right = sum(each.predicted[at] == label for each in rest)
            sure = float(predictions.probabilities[at, place[predicted]])
            yield _Mistake(task, text, label, predicted, sure, f"{right} of {len(rest)}", source)
