"""The rows of a file, such as the training rows, of which a server shows those nearest to a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mtl.base.errors import ConfigError, DataError, Problem, did_you_mean, listed
from mtl.data.examples import Examples, read_examples, read_texts
from mtl.data.table import Table
from mtl.evaluation.errors import nearest, unit_rows
from mtl.inference.models import MultiTaskModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mtl.activations.encoding import Precision

MOST_ROWS: Final = 100_000
"""Their embeddings take 307 MB at 768 dimensions, and a search a few hundredths of a second."""


@dataclass(frozen=True, slots=True)
class ExampleRows:
    """The rows of a file, checked and not encoded yet."""

    texts: Table
    labelled: Mapping[str, Examples]  # for each task whose labels the file has, the rows with a label


def read_rows(
    path: Path, text_column: str, label_column: str | None, labels: Mapping[str, Sequence[str]]
) -> ExampleRows:
    """Read the rows of a CSV, TSV, JSON Lines or Parquet file, or without labels of a text file.

    Args:
        path: The file.
        text_column: Its column of sentences.
        label_column: Its column of labels, or for several tasks ``topic:label,mood:tone``; a task's name alone is the
            column of that name. Rows without a label of a task are not shown for it.
        labels: The labels of each task of the model.

    Raises:
        ConfigError: ``label_column`` is wrong, or the file has too many rows or no label of a task.
        DataError: The file cannot be used.
    """
    columns = _columns(label_column, list(labels), text_column)
    problems: dict[Problem, None] = {}  # each reading finds those of the texts again
    labelled = {}
    for task, column in columns.items():
        try:
            labelled[task] = read_examples(path, text_column, column, missing="skip")
        except DataError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise DataError(problems)
    texts = read_texts(path, text_column)
    wrong = [
        Problem(f"{path}: {columns[task]}", f"the labels {listed(found, most=5)}", f"labels of {task}: {expected}")
        for task, rows in labelled.items()
        if not set(found := rows.distinct_labels()) & set(labels[task]) and (expected := listed(labels[task], most=5))
    ]
    if len(texts) > MOST_ROWS:
        wrong.append(Problem(str(path), f"{len(texts):,} rows", f"at most {MOST_ROWS:,}", "take a sample of them"))
    if wrong:
        raise ConfigError(wrong)
    return ExampleRows(texts, labelled)


def _columns(label_column: str | None, tasks: Sequence[str], text_column: str) -> dict[str, str]:
    """Return the column of labels of each task that has one."""
    columns: dict[str, str] = {}
    problems = []
    for entry in [] if label_column is None else label_column.split(","):
        task, colon, column = entry.partition(":")
        if not colon:
            column, task = task, tasks[0] if len(tasks) == 1 else task
        if task not in tasks:
            repair = did_you_mean(task, tasks) or f"label_column={tasks[0]}:{column}"
            problems.append(Problem("label_column", f"{entry!r}", f"TASK:COLUMN, with {listed(tasks)}", repair))
        elif task in columns or column in ("", text_column):
            problems.append(Problem("label_column", f"{entry!r}", f"one column of labels, not {text_column!r}"))
        columns[task] = column
    if problems:
        raise ConfigError(problems)
    return columns


class NearestRows:
    """The rows with the embeddings of one model, searched exactly."""

    def __init__(self, rows: ExampleRows, model: MultiTaskModel, precision: Precision) -> None:
        embeddings = unit_rows(model.encode(rows.texts.texts, precision=precision, progress="encoding the examples"))
        self.rows = rows
        self._embeddings = {
            task: embeddings
            if (labelled := rows.labelled.get(task)) is None or len(labelled) == len(embeddings)
            else embeddings[np.searchsorted(rows.texts.lines, labelled.lines)]
            for task in model.labels
        }

    @property
    def nbytes(self) -> int:
        """The memory of the embeddings."""
        return sum({id(values): values.nbytes for values in self._embeddings.values()}.values())

    def of(self, embeddings: NDArray[np.float32], count: int) -> dict[str, list[list[dict[str, Any]]]]:
        """Return for each task the ``count`` rows, or all, nearest to ``M`` texts with embeddings ``(M, E)`` by cosine.

        They are ``M`` lists, the nearest row first, in the form of `mtl.serving.schemas.NearestRow`.
        """
        found = {}
        for task, bank in self._embeddings.items():
            labelled = self.rows.labelled.get(task)
            table = self.rows.texts if labelled is None else labelled
            places, cosines = nearest(embeddings, bank, count, unit=True)
            found[task] = [
                [
                    {
                        "text": table.texts[at],
                        "label": None if labelled is None else labelled.labels[at],
                        "source": table.source(at),
                        "similarity": min(1.0, max(-1.0, cosine)),
                    }
                    for at, cosine in zip(row, values, strict=True)
                ]
                for row, values in zip(places.tolist(), cosines.tolist(), strict=True)
            ]
        return found
