"""The page of a run, built from the files in its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtl.base import formatting
from mtl.base.files import write_text_atomically
from mtl.base.formatting import told_apart
from mtl.evaluation import task_gradients
from mtl.evaluation.predictions import Predictions
from mtl.evaluation.records import ReliabilityBin, TaskReport
from mtl.evaluation.run_metrics import RunMetrics
from mtl.evaluation.run_summary import cost_rows, retention_row, weakest
from mtl.evaluation.runs import Record, read_curves, read_record
from mtl.reporting import charts, run_charts
from mtl.reporting.charts import pooled_bins
from mtl.reporting.maps import maps
from mtl.reporting.page import Cell, Chart, folded, matrix, paragraph, render, section, table, text

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
    for at, (sentence, label, predicted, source) in enumerate(rows):
        if label != predicted:
            right = sum(each.predicted[at] == label for each in rest)
            sure = float(predictions.probabilities[at, place[predicted]])
            yield _Mistake(task, sentence, label, predicted, sure, f"{right} of {len(rest)}", source)


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
                _class_table(report),
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
        f"Accuracy {report.accuracy:.3f}; always answering the most frequent class would reach "
        f"{report.majority_accuracy:.3f}. Weakest class: {lowest}, F1 {report.per_class[lowest].f1:.3f}."
    )


def _class_table(report: TaskReport) -> str:
    rows: list[list[Cell | str]] = [
        [
            label,
            *(Cell(formatting.score(value), value) for value in (each.precision, each.recall, each.f1)),
            Cell(formatting.count(each.support), each.support),
        ]
        for label, each in report.per_class.items()
    ]
    return folded("Each class in figures", table("Each class", ["class", "precision", "recall", "F1", "rows"], rows))


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
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        return ""
    rows: list[list[Cell | str]] = [
        [
            str(group.get("name", "")),
            ", ".join(formatting.layer_spans(map(str, group.get("layers") or ()))),
            str(group.get("state", "")),
            Cell(formatting.rate(group.get("learning_rate")), group.get("learning_rate")),
            Cell(formatting.count(group.get("parameters")), group.get("parameters")),
        ]
        for group in groups
    ]
    if not rows:
        return ""
    return table("Parameter groups", ["group", "layers", "state", "learning rate", "parameters"], rows)
