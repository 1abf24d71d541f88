"""Maps of a run's sentences: embeddings before and after training, projected by principal components."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl.base import formatting
from mtl.base.errors import DataError, Problem
from mtl.base.files import not_pipe, replacing
from mtl.evaluation.predictions import Predictions
from mtl.evaluation.run_metrics import check_file
from mtl.evaluation.run_summary import weakest
from mtl.evaluation.runs import Record
from mtl.reporting import charts
from mtl.reporting.charts import COLOURS
from mtl.reporting.page import Chart

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SentenceMap:
    """Where the ``N`` rows of a task lie."""

    before: Floats  # in the plane of the embeddings before training, ``(N, 2)``
    after: Floats  # in that after training, turned to lie as near to ``before`` as it can, ``(N, 2)``
    explained: tuple[float, float]  # the share of the variance that each plane shows
    rows: NDArray[np.int64]  # the place of each among the rows of its split, ascending, ``(N,)``

    @property
    def moved(self) -> bool:
        """Whether training has moved any sentence; it cannot where the encoder is frozen."""
        return not np.array_equal(self.before, self.after)


def plane(embeddings: NDArray[np.floating]) -> tuple[Floats, float]:
    """Return the first two principal components of rows ``(N, H)``, and the share of the variance that they explain.

    Signs are fixed (the largest loading is positive), so that the same embeddings always give the same plane.
    """
    centred = np.asarray(embeddings, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    left, strengths, axes = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    points = np.zeros((len(centred), 2))
    kept = min(2, len(strengths))
    points[:, :kept] = (left * strengths * signs)[:, :kept]
    total = float((strengths**2).sum())
    return points, float((strengths[:2] ** 2).sum()) / total if total else 0.0


def sentence_map(
    before: NDArray[np.floating], after: NDArray[np.floating], rows: NDArray[np.int64] | None = None
) -> SentenceMap:
    """Return the map of rows from their embeddings ``(N, H)`` before and after training; by default of a whole split.

    Each has its own plane; that after training is only rotated or mirrored onto the one before (orthogonal Procrustes:
    Schönemann, Psychometrika 1966), which changes no distance in it.
    """
    places = np.arange(len(before)) if rows is None else rows
    first, shown_first = plane(before)
    if np.array_equal(before, after):
        return SentenceMap(first, first, (shown_first, shown_first), places)
    second, shown_second = plane(after)
    left, _, right = np.linalg.svd(second.T @ first)
    return SentenceMap(first, second @ (left @ right), (shown_first, shown_second), places)


def map_path(run: str | Path, task: str, split: str) -> Path:
    """Return where a run's folder holds the map of a task's split."""
    return Path(run) / "maps" / f"{task}_{split}.npz"


def write_map(path: str | Path, found: SentenceMap) -> None:
    """Write a map, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            before=found.before.astype(np.float32),
            after=found.after.astype(np.float32),
            explained=np.array(found.explained),
            rows=found.rows,
        )


def read_map(path: str | Path) -> SentenceMap | None:
    """Return the map that `write_map` wrote, or None where there is no such file.

    Raises:
        DataError: The file is no map.
    """
    try:
        # Opened here, so that it is closed whatever is in it.
        with not_pipe(Path(path)).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            before, after, explained, rows = (stored[name] for name in ("before", "after", "explained", "rows"))
    except FileNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001 - NumPy, zipfile and zlib raise whatever a damaged archive leads to
        reason = ascii(str(error)[:100])[1:-1]
        raise DataError(Problem(str(path), f"not readable: {reason}", "a map of sentences that a run wrote")) from None
    shapes = before.shape, after.shape, explained.shape, rows.shape
    count = len(rows) if rows.ndim == 1 else -1
    kinds = [each.dtype.kind for each in (before, after, explained, rows)]
    if shapes != ((count, 2), (count, 2), (2,), (count,)) or kinds != ["f", "f", "f", "i"]:
        found = f"arrays of shapes {', '.join(map(str, shapes))}"
        raise DataError(Problem(str(path), found, "two of the shape (rows, 2), one of (2,), whole numbers of (rows,)"))
    places_hold = (rows >= 0).all() and (np.diff(rows) > 0).all()
    if not places_hold or not all(np.isfinite(each).all() for each in (before, after, explained)):
        raise DataError(Problem(str(path), "numbers that are not finite, or rows out of order", "a map of sentences"))
    shown = float(explained[0]), float(explained[1])
    return SentenceMap(before.astype(np.float64), after.astype(np.float64), shown, rows.astype(np.int64))


def maps(record: Record, task: str, identity: str) -> Iterator[Chart]:
    """Yield the maps of a run's tested rows, one alone where training has moved nothing, none where it kept none.

    The ids of the charts begin with ``identity``.
    """
    outcomes = record.outcomes[task]
    path = map_path(record.folder, task, outcomes.split)
    check_file(record.folder, path, record.metrics.files)
    found = read_map(path)
    if found is None or found.rows.max(initial=-1) >= len(outcomes.predictions):
        return
    sample = "" if len(found.rows) == len(outcomes.predictions) else f"{len(found.rows):,} rows drawn at random; "
    classes = list(outcomes.predictions.classes)
    if len(classes) > len(COLOURS):
        classes = weakest(record.report(task).per_class, len(COLOURS))
        sample = f"in colour the {len(COLOURS)} classes with the lowest F1; {sample}"
    others = len(outcomes.predictions.classes) - len(classes)
    titles = {"before": "Embeddings before training", "after": "Embeddings after training"}
    if not found.moved:
        titles = {"before": "Embeddings, which training has left as they were"}
    for (when, title), share in zip(titles.items(), found.explained, strict=False):
        rows = _rows(outcomes.predictions, found, getattr(found, when))
        told = f"Two principal components, {100 * share:.0f} % of the variance; {sample}crosses are mistakes of the "
        yield charts.sentence_map(f"{identity}-{when}", title, rows, classes, f"{told}trained model.", others)


def _rows(predictions: Predictions, found: SentenceMap, points: Floats) -> list[dict[str, Any]]:
    return [
        {
            "x": float(x),
            "y": float(y),
            "class": predictions.labels[row],
            "predicted": predictions.predicted[row],
            "text": formatting.shortened(predictions.texts[row], 200),
            "right": predictions.labels[row] == predictions.predicted[row],
        }
        for row, (x, y) in zip(found.rows.tolist(), points, strict=True)
    ]
