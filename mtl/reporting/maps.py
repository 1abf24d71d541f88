"""The maps of a run's sentences as charts: where its embeddings lay before training, and where they lie after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mtl.base import formatting
from mtl.evaluation.metrics_file import check_file
from mtl.evaluation.predictions import Predictions
from mtl.evaluation.run_records import Record
from mtl.evaluation.summary import weakest
from mtl.reporting import charts
from mtl.reporting.colours import COLOURS
from mtl.reporting.page import Chart
from mtl.reporting.projection import Floats, SentenceMap, map_path, read_map


def maps(record: Record, task: str, identity: str) -> Iterator[Chart]:
    """Yield the maps of a run's tested rows, one alone where training has moved nothing, none where it kept none.

    Args:
        record: The run.
        task: The task.
        identity: The beginning of the charts' ids.

    Raises:
        DataError: The file of the map cannot be read.
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
    titles = ["Embeddings before training", "Embeddings after training"]
    if not found.moved:
        titles = ["Embeddings, which training has left as they were"]
    for name, heading, points, share in zip(
        ("before", "after"), titles, (found.before, found.after), found.explained, strict=False
    ):
        rows = _rows(outcomes.predictions, found, points)
        others = len(outcomes.predictions.classes) - len(classes)
        yield charts.sentence_map(f"{identity}-{name}", heading, rows, classes, _told(share, sample), others)


def _told(explained: float, sample: str) -> str:
    return (
        f"Two principal components, {100 * explained:.0f} % of the variance; {sample}crosses are mistakes of the "
        "trained model."
    )


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
