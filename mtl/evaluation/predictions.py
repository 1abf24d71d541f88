"""The files ``predictions/<task>_<split>.csv``: each sentence with its label, predicted class and all probabilities.

Comma-separated as in RFC 4180, UTF-8, lines ended by CR LF, texts always in quotes. Columns: ``text``, ``label``,
``predicted``, then ``p(<label>)`` for each class with six decimals, at the end ``source`` (file and line).

Spreadsheets run a cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line break as a formula
(https://owasp.org/www-community/attacks/CSV_Injection). Such a text is written with a leading single quote, by which
spreadsheets recognize texts. A text that already has quotes before such a character gets one more, so that
`read_predictions` removes exactly what was added.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl.base.errors import DataError, Problem, listed
from mtl.base.files import not_pipe, replacing

# Full-width signs begin formulas too in Japanese and Chinese spreadsheets.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class ConfusionExample:
    """A row of one class that was predicted as another one."""

    text: str
    source: str  # its file and line
    probability: float  # the probability of the predicted class


ConfusionExamples = Mapping[tuple[str, str], Sequence[ConfusionExample]]
"""Examples for each pair (true class, predicted class), the most confident first."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """The predictions of one task on one split, ``N`` rows and ``C`` classes."""

    classes: Sequence[str]  # the ``C`` class names in the order of the logits
    texts: Sequence[str]  # the ``N`` sentences
    labels: Sequence[str]  # their true classes
    predicted: Sequence[str]  # their predicted classes
    probabilities: NDArray[np.floating]  # ``(N, C)`` floats
    sources: Sequence[str]  # file and line of every sentence

    def __len__(self) -> int:
        return len(self.texts)

    def ids(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Return the class ids of ``labels`` or ``predicted``, ``(N,)``."""
        column = {name: at for at, name in enumerate(self.classes)}
        return np.array([column[name] for name in names], dtype=np.int64)

    def confidence(self) -> NDArray[np.floating]:
        """Return the probability of the predicted class of each row, ``(N,)``."""
        return self.probabilities[np.arange(len(self)), self.ids(self.predicted)]

    def mistakes(self) -> NDArray[np.int64]:
        """Return the rows with a wrong prediction, the most confident first."""
        wrong = np.flatnonzero(self.ids(self.labels) != self.ids(self.predicted))
        order: NDArray[np.int64] = wrong[np.argsort(-self.confidence()[wrong], kind="stable")]
        return order


def predictions_path(run: str | Path, task: str, split: str) -> Path:
    """Return the path of the predictions of a task on a split."""
    return Path(run) / "predictions" / f"{task}_{split}.csv"


def write_predictions(path: str | Path, predictions: Predictions) -> None:
    """Write the predictions of one task on one split, whole or not at all."""
    names = zip(predictions.texts, predictions.labels, predictions.predicted, predictions.sources, strict=True)
    rows: Iterator[Sequence[str | float]] = (
        [text, label, predicted, *(round(float(value), _DECIMALS) for value in probabilities), source]
        for (text, label, predicted, source), probabilities in zip(names, predictions.probabilities, strict=True)
    )
    write_csv(path, chain([_header(predictions.classes)], rows))


def write_csv(path: str | Path, rows: Iterable[Sequence[str | float | None]]) -> None:
    """Write rows as the module describes it: texts quoted and guarded, the file whole or not at all."""
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        # All texts are quoted: their semicolons then split no cell where a spreadsheet separates by semicolons.
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerows([guarded(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)


def read_predictions(path: str | Path) -> Predictions:
    """Read what `write_predictions` wrote, the probabilities with six decimals.

    Raises:
        DataError: The file is missing, is not UTF-8, or has another heading or rows that do not fit it (all named).
    """
    (_, header), *records = _records(Path(path)) or [(1, [])]
    classes = [name[2:-1] for name in header[3:-1]]
    if not classes or header != _header(classes) or len(set(classes)) < len(classes):
        expected = "text, label, predicted, p(<label>) for each class, source"
        raise DataError(Problem(f"{path}:1", ", ".join(header) or "an empty file", expected))
    problems = [
        problem for line, cells in records for problem in _row_problems(f"{path}:{line}", cells, header, classes)
    ]
    if problems:
        raise DataError(problems)
    rows = [cells for _, cells in records]
    texts, labels, predicted, sources = ([_unguarded(row[at]) for row in rows] for at in (0, 1, 2, -1))
    probabilities = np.array([row[3:-1] for row in rows], dtype=np.float64).reshape(len(rows), len(header) - 4)
    return Predictions(classes, texts, labels, predicted, probabilities, sources)


def confusion_examples(predictions: Predictions, most: int = 3) -> dict[tuple[str, str], list[ConfusionExample]]:
    """Return at most ``most`` wrong rows for each pair (true class, predicted class), the most confident first."""
    confidence = predictions.confidence()
    examples: dict[tuple[str, str], list[ConfusionExample]] = defaultdict(list)
    for row in predictions.mistakes().tolist():
        of_pair = examples[predictions.labels[row], predictions.predicted[row]]
        if len(of_pair) < most:
            example = ConfusionExample(predictions.texts[row], predictions.sources[row], float(confidence[row]))
            of_pair.append(example)
    return examples


def guarded(cell: str) -> str:
    """Return the cell, with a leading quote where a spreadsheet would run it as a formula."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def _unguarded(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _records(path: Path) -> list[tuple[int, list[str]]]:
    """Return the rows of the file, each with the number of its first line."""
    records: list[tuple[int, list[str]]] = []
    line = 1
    from mtl.data.readers import large_fields  # with Arrow, which `mtl.predict` for a sentence can do without

    expected = "the predictions of a run"
    try:
        # utf-8-sig: files saved by a spreadsheet begin with a byte-order mark.
        with not_pipe(path).open(encoding="utf-8-sig", newline="") as file, large_fields():
            reader = csv.reader(file, strict=True)
            for cells in reader:
                records.append((line, cells))
                line = reader.line_num + 1
    except OSError as error:
        found, repair = f"not readable: {error.strerror}", "evaluate the run again: it writes this file"
        raise DataError(Problem(str(path), found, expected, repair)) from None
    except UnicodeDecodeError as error:
        found = f"not UTF-8 text: {error.reason}"
        raise DataError(Problem(str(path), found, expected, "save the file as UTF-8")) from None
    except csv.Error as error:
        raise DataError(Problem(f"{path}:{line}", f"broken CSV: {error}", "records as in RFC 4180")) from None
    return records


def _header(classes: Sequence[str]) -> list[str]:
    return ["text", "label", "predicted", *(f"p({name})" for name in classes), "source"]


def _row_problems(place: str, cells: list[str], header: list[str], classes: list[str]) -> Iterator[Problem]:
    if len(cells) != len(header):
        yield Problem(place, f"{len(cells)} cells", f"{len(header)} cells as in the heading")
        return
    for name in ("label", "predicted"):
        if (label := _unguarded(cells[header.index(name)])) not in classes:
            yield Problem(place, f"{name} {label!r}", f"one of the classes of the heading: {listed(classes)}")
    for name, cell in zip(header[3:-1], cells[3:-1], strict=True):
        if not _is_probability(cell):
            yield Problem(place, f"{name} {cell!r}", "a number from 0 to 1")


def _is_probability(cell: str) -> bool:
    try:
        return 0 <= float(cell) <= 1
    except ValueError:
        return False
