"""The page of a run, built from the files in its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtl.base import formatting
from mtl.base.files import write_text_atomically
from mtl.base.formatting import told_apart
from mtl.evaluation import task_gradients
from mtl.evaluation.predictions import Predictions
from mtl.evaluation.records import TaskReport
from mtl.evaluation.run_metrics import RunMetrics
from mtl.evaluation.run_summary import GroupRow, cost_rows, retention_row, weakest
from mtl.evaluation.runs import Record, read_curves, read_record
from mtl.reporting import charts, run_charts
from mtl.reporting.charts import pooled_bins
from mtl.reporting.maps import maps
from mtl.reporting.page import Chart, Matrix, render
from mtl.reporting.tables import Cell, Table, answer_table, class_table, group_table, set_table

MOST = 1500
"""A page lists at most so many mistakes; the files of predictions hold all."""
_SENTENCE = 400  # characters


def errors_table(
    tasks: Mapping[str, Predictions], others: Mapping[str, Sequence[Predictions]] | None = None
) -> Table | None:
    """Return the mistakes of all tasks, the most confident first; None where there are none.

    Of each task ``others`` are the predictions of other runs over the same rows: the table counts those that are right.
    """
    mistakes: list[tuple[float, str, int]] = []
    for task, predictions in tasks.items():
        confidence = predictions.confidence()
        mistakes += [(float(confidence[row]), task, row) for row in predictions.mistakes().tolist()]
    mistakes.sort(key=lambda mistake: -mistake[0])
    if not mistakes:
        return None
    rows: list[list[Cell | str]] = []
    for probability, task, row in mistakes[:MOST]:
        predictions = tasks[task]
        rows.append(
            [
                Cell(formatting.shortened(predictions.texts[row], _SENTENCE), kind="sentence"),
                predictions.labels[row],
                Cell(predictions.predicted[row], kind="wrong"),
                task,
                predictions.sources[row],
                Cell(formatting.score(probability), probability),
            ]
        )
        if others:
            right = [other.predicted[row] == predictions.labels[row] for other in others.get(task, [])]
            rows[-1].append(Cell(f"{sum(right)} of {len(right)}", sum(right)))
    columns = ["sentence", "label", "predicted", "task", "row", "probability", *(["right elsewhere"] if others else [])]
    left_out = f" (the {MOST:,} most confident; the files of predictions hold all)" if len(mistakes) > MOST else ""
    return Table(f"{len(mistakes):,} mistakes{left_out}, the most confident first", columns, rows, texts=5)


MATRIX_CLASSES = 20
_IN_MATRIX = 26  # characters of a class name


def write_run_page(folder: str | Path, metrics: RunMetrics | None = None) -> Path:
    """Write ``report.html`` into a run's folder, whole or not at all, and return its path.

    A run that is about to write its ``metrics.json`` gives ``metrics``, what that file will hold.

    Raises:
        DataError: A file of the run cannot be read.
    """
    path = Path(folder) / "report.html"
    write_text_atomically(path, run_page(read_record(Path(folder), metrics)))
    return path


def run_page(record: Record) -> str:
    """Return the page of a run."""
    run, metrics = record.metrics.run, record.metrics
    shown = ("freeze", "learning_rates")
    choices = [f"{group}={choice}" for group, choice in record.facts.choices.items() if group in shown]
    warnings = run.get("warnings")
    tasks = [_task(record, task, number) for number, task in enumerate(record.outcomes)]
    curves = list(_curves(record))
    gradients = metrics.gradients if metrics.gradients is not None and metrics.gradients.agreements else None
    reports = {task: {outcomes.split: record.report(task)} for task, outcomes in record.outcomes.items()}
    return render(
        "run.html",
        f"Run: {record.name}",
        [*(chart for task in tasks for chart in (*task["charts"], *task["maps"])), *curves],
        facts=[f"backbone {run.get('backbone', '?')}", f"seed {record.seed}", *choices],
        warnings=warnings if isinstance(warnings, list) else [],
        tasks=tasks,
        mistakes=errors_table({task: outcomes.predictions for task, outcomes in record.outcomes.items()}),
        answering=[table for table in (set_table(reports), answer_table(reports)) if table is not None],
        curves=curves,
        gradients=[*task_gradients.sentences(gradients)] if gradients else [],
        gradients_method=task_gradients.method(gradients) if gradients else "",
        cost=[*cost_rows(metrics.cost), *([] if metrics.retention is None else [retention_row(metrics.retention)])],
        groups=_groups(record),
    )


def _task(record: Record, task: str, number: int) -> dict[str, Any]:
    """Return what the page shows of a task."""
    outcomes, report = record.outcomes[task], record.report(task)
    weakest_class = weakest(report.per_class, 1)[0]
    if report.calibration is None:
        bins = {"this run": pooled_bins([outcomes.predictions])}
    else:
        bins = run_charts.calibration_bins(report.calibration)
    return {
        "name": task,
        "split": outcomes.split,
        "rows": len(outcomes.predictions),
        "report": report,
        "judged": f"Accuracy {report.accuracy:.3f}; always predicting the most frequent class would reach "
        f"{report.majority_accuracy:.3f}. Weakest class: {weakest_class}, "
        f"F1 {report.per_class[weakest_class].f1:.3f}.",
        "charts": [
            run_charts.class_bars(report, identity=f"chart-classes-{number}"),
            run_charts.reliability(bins, f"chart-reliability-{number}"),
        ],
        "classes": class_table("Each class", report, most=None),
        "matrix": confusion_matrix(task, report),
        "maps": list(maps(record, task, f"chart-map-{number}")),
    }


def confusion_matrix(task: str, report: TaskReport) -> Matrix:
    """Return the confusion matrix of a task, or, of many classes, that of those with the most wrong rows."""
    if len(report.labels) <= MATRIX_CLASSES:
        rows = dict(zip(report.labels, report.confusion, strict=True))
        return Matrix(f"Confusion matrix of {task}", report.labels, rows)
    counts = np.array(report.confusion)
    chosen = run_charts.most_confused(counts)
    cells = counts[np.ix_(chosen, chosen)]
    others = counts[chosen].sum(axis=1) - cells.sum(axis=1)
    caption = (
        f"Confusion matrix of {task}: the {len(chosen)} of {len(counts)} classes with the most wrong rows; "
        "metrics.json has all"
    )
    names = told_apart(report.labels, _IN_MATRIX)
    labels = [names[report.labels[row]] for row in chosen]
    rows = dict(zip(labels, np.column_stack([cells, others]).tolist(), strict=True))
    return Matrix(caption, [*labels, "other classes"], rows, dense=True)


def _curves(record: Record) -> Iterator[Chart]:
    curves = read_curves(record.folder)
    kinds = {"macro-F1 on validation rows": "val/{}/macro_f1", "training loss": "train/{}/loss"}
    for number, (title, name) in enumerate(kinds.items()):
        lines = {task: curves[name.format(task)] for task in record.outcomes if name.format(task) in curves}
        rows = [{"name": task, "x": x, "y": y} for task, points in lines.items() for x, y in points]
        if rows:
            heading = title[0].upper() + title[1:]
            yield charts.curves(f"chart-curve-{number}", heading, rows, list(lines), "epoch", title, "By epoch.")


def _groups(record: Record) -> Table | None:
    groups = record.metrics.run.get("groups")
    try:
        return group_table([GroupRow(**group) for group in groups]) if isinstance(groups, list) and groups else None
    except (TypeError, ValueError, AttributeError):  # edited by hand, or by another version
        return None
