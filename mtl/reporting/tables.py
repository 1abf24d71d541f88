"""Tables for the terminal: readable at 80 columns, and plain text where the output is no terminal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from mtl.base import formatting
from mtl.base.terminal import console as console
from mtl.evaluation.records import DECISIONS, MEASURES, ClassReport, Retention, StageReports, TaskReport
from mtl.evaluation.run_metrics import Cost
from mtl.evaluation.run_summary import (
    RARE_SUPPORT,
    GroupRow,
    JobRow,
    PlanRow,
    StageRow,
    calibrations,
    cost_rows,
    others_in_words,
    reported_split,
    retention_row,
    weakest,
)
from mtl.reporting.sections import HEADER, stage_rows

MOST_CLASSES = 20
"""A terminal shows at most so many classes of a task: those with the lowest F1."""


def results_table(tasks: Mapping[str, Mapping[str, TaskReport]]) -> Table:
    """Return one line for each task and split: rows, accuracy, macro-F1, weighted-F1, and the majority class.

    Args:
        tasks: The report of each task (outer key) on each split (inner key).
    """
    table = _table("Results", ["task", "split"], ["rows", "accuracy", "macro-F1", "weighted-F1", "majority"])
    for task, splits in tasks.items():
        for split, report in splits.items():
            scores = (report.accuracy, report.macro_f1, report.weighted_f1, report.majority_accuracy)
            table.add_row(_text(task), _text(split), formatting.count(report.rows), *map(formatting.score, scores))
    table.caption = "majority: accuracy of always answering the most frequent class"
    return table


def calibration_table(tasks: Mapping[str, Mapping[str, TaskReport]]) -> Table:
    """Return for each task and split its temperature, and how far its probabilities can be trusted without and with it.

    Args:
        tasks: The report of each task (outer key) on each split (inner key).
    """
    table = _table("Calibration", ["task", "split"], ["T", "ECE", "NLL", "Brier score"])
    for task, split, found in calibrations(tasks):
        pairs = [formatting.change(getattr(found.before, name), getattr(found.after, name)) for name in MEASURES]
        table.add_row(_text(task), _text(split), f"{found.temperature:.2f}", *pairs)
    table.caption = "without → with what was fitted on val; lower is better"
    return table


def decision_table(tasks: Mapping[str, Mapping[str, TaskReport]]) -> Table | None:
    """Return what the tuned decision rule changes; None where no task has one.

    Args:
        tasks: The report of each task (outer key) on each split (inner key).
    """
    tuned = [row for row in calibrations(tasks) if row[2].tau]
    if not tuned:
        return None
    table = _table("Decision rule", ["task", "split"], ["tau", "accuracy", "macro-F1"])
    for task, split, found in tuned:
        pairs = [formatting.change(getattr(found.before, name), getattr(found.after, name)) for name in DECISIONS]
        table.add_row(_text(task), _text(split), f"{found.tau:g}", *pairs)
    table.caption = "without → with tau times the training rows' log-frequencies taken out of the logits"
    return table


def class_table(title: str, report: TaskReport, most: int = MOST_CLASSES) -> Table:
    """Return precision, recall, F1 and support of each class, with both averages and the accuracy below.

    Classes with fewer than `RARE_SUPPORT` rows are marked. Of more than ``most`` classes those with the lowest F1 are
    shown, in the order of the task.

    Args:
        title: What is evaluated: the task and the split.
        report: Its figures.
        most: How many classes to show at most.
    """
    table = _table(title, ["class"], ["precision", "recall", "F1", "support"])
    shown = _weakest(report.per_class, most)
    for label, scores in shown.items():
        values = (scores.precision, scores.recall, scores.f1)
        table.add_row(_text(label), *map(formatting.score, values), _support(scores.support))
    table.add_section()
    rows = formatting.count(report.rows)
    macro = (report.macro_precision, report.macro_recall, report.macro_f1)
    weighted = (report.weighted_precision, report.weighted_recall, report.weighted_f1)
    table.add_row("macro average", *map(formatting.score, macro), rows)
    table.add_row("weighted average", *map(formatting.score, weighted), rows)
    table.add_row("accuracy", "", "", formatting.score(report.accuracy), rows)
    table.caption = "\n".join(_notes(report, shown)) or None
    return table


def stage_table(title: str, stages: StageReports) -> Table:
    """Return rows, accuracy and macro-F1 of each stage of a multi-stage head.

    Args:
        title: What is evaluated: the task and the split.
        stages: The figures.
    """
    table = _table(title, HEADER[:2], HEADER[2:])
    for cells in stage_rows(stages):
        table.add_row(*map(_text, cells))
    table.caption = "second: among the rows of a coarse class, with that class given"
    return table


def group_table(groups: Sequence[GroupRow]) -> Table:
    """Return the parameter groups from the bottom layer to the heads, with their rates and sizes.

    Args:
        groups: The groups in the order to show.
    """
    table = _table("Parameter groups", ["group", "layers", "state"], ["rate", "decay", "parameters"])
    table.columns[2].max_width = 12  # "trained from epoch 2" in two lines leaves the layers their width
    for group in groups:
        table.add_row(
            _text(group.name),
            Text("\n").join(map(_text, formatting.layer_spans(group.layers))),
            _text(group.state),
            formatting.rate(group.learning_rate),
            formatting.rate(group.weight_decay),
            formatting.count(group.parameters),
            style="dim" if group.state == "frozen" else None,
        )
    return table


def unfreezing_table(stages: Sequence[StageRow]) -> Table:
    """Return when which layers begin to learn, and how many parameters learn from then on.

    Args:
        stages: The stages in order.
    """
    table = _table("Gradual unfreezing", ["stage", "from", "begins to train", "peak rates"], ["parameters"])
    for number, stage in enumerate(stages, 1):
        begins = Text("\n").join(map(_text, formatting.layer_spans(stage.begins)))
        rates = Text("\n").join(_text(f"{name} {formatting.rate(rate)}") for name, rate in stage.rates.items())
        table.add_row(str(number), _text(stage.start), begins, rates, formatting.count(stage.parameters))
    table.caption = "peak rates and parameters: of all that trains from then on"
    return table


def jobs_table(jobs: Sequence[JobRow]) -> Table:
    """Return a line for each job of a sweep with the macro-F1 of each task.

    Args:
        jobs: The jobs in order.
    """
    tasks = list(dict.fromkeys(task for job in jobs for task in job.reports))
    table = _table("Jobs of the sweep", ["job", "settings"], ["val", *map(formatting.one_line, tasks)])
    for job in jobs:
        if job.error:
            table.add_row(str(job.number), _text(job.overrides), "failed", *[""] * len(tasks), style="yellow")
            continue
        splits = [job.reports.get(task, {}) for task in tasks]
        validated = [split["val"].macro_f1 for split in splits if "val" in split]
        scores = [statistics.fmean(validated) if validated else None]
        scores += [split[reported].macro_f1 if (reported := reported_split(split)) else None for split in splits]
        table.add_row(str(job.number), _text(job.overrides), *map(formatting.score, scores))
    table.caption = (
        "macro-F1. val: the mean of all tasks on the validation rows, to choose a job by.\n"
        "Then each task on its test rows."
    )
    return table


def plan_table(plan: Sequence[PlanRow]) -> Table:
    """Return what an epoch does with each task: its rows, its batches, and how often it goes through the rows.

    Args:
        plan: One entry for each task.
    """
    table = _table("Plan of an epoch", ["task"], ["rows", "batches per epoch", "passes over the rows"])
    for row in plan:
        repeated = (row.slots or row.rows) - row.rows
        rows = formatting.count(row.rows) + (f" + {formatting.count(repeated)} repeated" if repeated else "")
        table.add_row(_text(row.task), rows, formatting.count(row.batches), f"{row.passes:.2f}")
    return table


def cost_table(cost: Cost, retention: Retention | None = None) -> Table:
    """Return what a run took, as far as it was measured.

    Args:
        cost: What was measured.
        retention: What it took from the encoder's general ability.
    """
    table = Table(title="Cost", title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    for name, value in (*cost_rows(cost), *([] if retention is None else [retention_row(retention)])):
        table.add_row(name, value)
    return table


def _table(title: str, texts: Sequence[str], figures: Sequence[str]) -> Table:
    table = Table(
        title=_text(title),
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _text(data: str) -> Text:
    """Return data as plain text: brackets in it are no markup, control characters do not reach the terminal."""
    return Text(formatting.one_line(data))


def _support(support: int) -> str:
    return ("* " if support < RARE_SUPPORT else "") + formatting.count(support)


def _weakest(per_class: Mapping[str, ClassReport], most: int) -> dict[str, ClassReport]:
    lowest = set(weakest(per_class, most))
    return {label: scores for label, scores in per_class.items() if label in lowest}


def _notes(report: TaskReport, shown: Mapping[str, ClassReport]) -> list[str]:
    notes = []
    if any(scores.support < RARE_SUPPORT for scores in shown.values()):
        notes.append(f"* fewer than {RARE_SUPPORT} rows: uncertain figures")
    if others := others_in_words(report.per_class, shown):
        notes.append(f"{others}: see the report")
    return notes
