"""The page of a run, built from the files in its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from mtl.base import formatting
from mtl.base.files import write_text_atomically
from mtl.base.formatting import told_apart
from mtl.evaluation import task_gradients
from mtl.evaluation.predictions import Predictions
from mtl.evaluation.records import ReliabilityBin, TaskReport
from mtl.evaluation.run_metrics import RunMetrics
from mtl.evaluation.run_summary import GroupRow, cost_rows, retention_row, weakest
from mtl.evaluation.runs import Record, read_curves, read_record
from mtl.reporting import charts, run_charts
from mtl.reporting.charts import pooled_bins
from mtl.reporting.maps import maps
from mtl.reporting.page import Chart, folded, matrix, paragraph, render, section, table, text
from mtl.reporting.tables import Cell, Table, class_table, group_table

MOST = 1500
"""A page lists at most so many mistakes; the files of predictions hold all."""
_SENTENCE = 400  # characters


def errors_table(
    tasks: Mapping[str, Predictions], others: Mapping[str, Sequence[Predictions]] | None = None, most: int = MOST
) -> str:
    """Return the mistakes of all tasks as a table, or a sentence where there are none.

    Args:
        tasks: The predictions of each task.
        others: For each task, predictions of other runs over the same rows: the table counts those that are right.
        most: How many to list at most.
    """
    mistakes = sorted(
        (
            (float(predictions.probabilities[at, predictions.classes.index(predicted)]), task, at)
            for task, predictions in tasks.items()
            for at, (label, predicted) in enumerate(zip(predictions.labels, predictions.predicted, strict=True))
            if label != predicted
        ),
        key=lambda mistake: -mistake[0],
    )
    if not mistakes:
        return paragraph("No row was taken for another class.")
    rows: list[list[Cell | str]] = []
    for probability, task, at in mistakes[:most]:
        predictions = tasks[task]
        rows.append(
            [
                Cell(formatting.shortened(predictions.texts[at], _SENTENCE), kind="sentence"),
                predictions.labels[at],
                Cell(predictions.predicted[at], kind="wrong"),
                task,
                predictions.sources[at],
                Cell(formatting.score(probability), probability),
            ]
        )
        if others:
            right = [each.predicted[at] == predictions.labels[at] for each in others.get(task, [])]
            rows[-1].append(Cell(f"{sum(right)} of {len(right)}", sum(right)))
    columns = ["sentence", "label", "predicted", "task", "row", "probability", *(["right elsewhere"] if others else [])]
    left_out = f" (the {most:,} most confident; the files of predictions hold all)" if len(mistakes) > most else ""
    title = f"{len(mistakes):,} mistakes{left_out}, the most confident first"
    return table(Table(title, columns, rows, texts=5), "Search the mistakes")


MATRIX_CLASSES = 20
_IN_MATRIX = 26  # characters of a class name


def write_run_page(folder: str | Path, metrics: RunMetrics | None = None) -> Path:
    """Write ``report.html`` into a run's folder, whole or not at all, and return its path.

    Args:
        folder: The folder of a finished run, or of one that is about to write its ``metrics.json``.
        metrics: What that file will hold; by default it is read.

    Raises:
        DataError: A file of the run cannot be read.
    """
    path = Path(folder) / "report.html"
    write_text_atomically(path, run_page(read_record(Path(folder), metrics)))
    return path


def run_page(record: Record) -> str:
    """Return the page.

    Args:
        record: The run.

    Raises:
        DataError: A map of its sentences cannot be read.
    """
    drawn: list[Chart] = []

    def show(*found: Chart) -> str:
        drawn.extend(found)
        return f'<div class="charts">{"".join(chart.render() for chart in found)}</div>' if found else ""

    sections = []
    for at, (task, outcomes) in enumerate(record.outcomes.items()):
        report = record.report(task)
        sections.append(
            section(
                f"task-{at}",
                f"{task}: accuracy {report.accuracy:.3f}, macro-F1 {report.macro_f1:.3f}",
                show(
                    run_charts.class_bars(report, identity=f"chart-classes-{at}"),
                    run_charts.reliability(_bins(report, outcomes.predictions), f"chart-reliability-{at}"),
                ),
                folded("Each class in figures", table(class_table("Each class", report, most=None))),
                _matrix(task, report),
                show(*maps(record, task, f"chart-map-{at}")),
            )
        )
    tasks = {task: outcomes.predictions for task, outcomes in record.outcomes.items()}
    sections += [
        section("mistakes", "Mistakes", errors_table(tasks)),
        section("curves", "Training", show(*_curves(record))),
        *_gradients(record),
        section("groups", "What was trained, and what it cost", _cost(record), _groups(record)),
    ]
    return render(f"Run: {record.name}", _lead(record), sections, drawn)


def _lead(record: Record) -> str:
    run = record.metrics.run
    facts = [f"backbone {run.get('backbone', '?')}", f"seed {record.seed}"]
    facts += [f"{group}={choice}" for group, choice in record.choices.items() if group in ("freeze", "learning_rates")]
    cards = "".join(
        f'<li class="card first"><h2>{text(task)}, {text(outcomes.split)}, {len(outcomes.predictions):,} rows</h2>'
        f'<p class="answer">{report.macro_f1:.3f} macro-F1</p>'
        f"{paragraph(_judged(report))}</li>"
        for task, outcomes in record.outcomes.items()
        for report in [record.report(task)]
    )
    warnings = run.get("warnings")
    told = "".join(paragraph(str(each), kind="warning") for each in (warnings if isinstance(warnings, list) else []))
    return f'{paragraph("; ".join(facts), kind="facts")}{told}<ul class="cards">{cards}</ul>'


def _judged(report: TaskReport) -> str:
    lowest = weakest(report.per_class, 1)[0]
    return (
        f"Accuracy {report.accuracy:.3f}; always predicting the most frequent class would reach "
        f"{report.majority_accuracy:.3f}. Weakest class: {lowest}, F1 {report.per_class[lowest].f1:.3f}."
    )


def _matrix(task: str, report: TaskReport) -> str:
    if len(report.labels) <= MATRIX_CLASSES:
        return matrix(f"Confusion matrix of {task}", report.labels, report.confusion)
    counts = np.array(report.confusion)
    chosen = run_charts.most_confused(counts)
    cells = counts[np.ix_(chosen, chosen)]
    others = counts[chosen].sum(axis=1) - cells.sum(axis=1)
    caption = (
        f"Confusion matrix of {task}: the {len(chosen)} of {len(counts)} classes with the most wrong rows; "
        "metrics.json has all"
    )
    names = told_apart(report.labels, _IN_MATRIX)
    labels = [names[report.labels[at]] for at in chosen]
    return matrix(caption, labels, np.column_stack([cells, others]).tolist(), columns=[*labels, "other classes"])


def _bins(report: TaskReport, predictions: Predictions) -> dict[str, list[ReliabilityBin]]:
    if report.calibration is None:
        return {"this run": pooled_bins([predictions])}
    return run_charts.calibration_bins(report.calibration)


def _curves(record: Record) -> Iterator[Chart]:
    curves = read_curves(record.folder)
    kinds = {
        "macro-F1 on validation rows": {task: f"val/{task}/macro_f1" for task in record.outcomes},
        "training loss": {task: f"train/{task}/loss" for task in record.outcomes},
    }
    for at, (title, wanted) in enumerate(kinds.items()):
        lines = {task: curves[name] for task, name in wanted.items() if name in curves}
        rows = [{"name": task, "x": x, "y": y} for task, points in lines.items() for x, y in points]
        if rows:
            told = "By epoch."
            yield charts.curves(
                f"chart-curve-{at}", title[0].upper() + title[1:], rows, list(lines), "epoch", title, told
            )


def _gradients(record: Record) -> Iterator[str]:
    gradients = record.metrics.gradients
    if gradients is not None and gradients.agreements:
        told = map(paragraph, task_gradients.sentences(gradients))
        yield section("gradients", "Do the tasks fight?", *told, paragraph(task_gradients.method(gradients), "note"))


def _cost(record: Record) -> str:
    retention = record.metrics.retention
    rows = [*cost_rows(record.metrics.cost), *([] if retention is None else [retention_row(retention)])]
    items = "".join(f"<li><b>{text(name)}</b>: {text(value)}</li>" for name, value in rows)
    return f"<ul>{items}</ul>" if items else ""


def _groups(record: Record) -> str:
    groups = record.metrics.run.get("groups")
    try:
        rows = [GroupRow(**group) for group in groups] if isinstance(groups, list) else []
        return table(group_table(rows)) if rows else ""
    except (TypeError, ValueError, AttributeError):  # edited by hand, or by another version
        return ""
