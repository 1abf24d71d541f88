"""Tables as plain values, for the terminal, Markdown and pages; other tables are in `sections` and `run_page`."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import rich.table
from rich import box
from rich.text import Text

from mtl.base import formatting
from mtl.evaluation.records import CalibrationReport, Reports, Retention, StageReports, TaskReport, flat
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
from mtl.reporting import markdown

MOST_CLASSES = 20
"""A terminal shows at most so many classes of a task: those with the lowest F1."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell with more than its text."""

    text: str | Sequence[str]  # several texts are lines in the terminal and one line elsewhere
    value: float | None = None  # the number by which a page sorts the cell
    kind: str = ""  # its class in the style sheet of pages
    separator: str = " "  # between several texts in one line

    @property
    def line(self) -> str:
        """The text in one line."""
        return self.text if isinstance(self.text, str) else self.separator.join(self.text)


Rows = Sequence[Sequence[Cell | str]]


@dataclass(frozen=True, slots=True)
class Table:
    """A table; a console prints it as it is, because it has ``__rich__``."""

    title: str
    columns: Sequence[str]  # without any the table has no head
    rows: Rows
    note: str = ""  # below the table in the terminal
    texts: int = 1  # so many columns from the left hold texts; the others hold figures, aligned right
    footer: Rows = ()  # rows below the others, such as averages
    styles: Mapping[int, str] = field(default_factory=dict)  # ``best``, ``failed`` or ``frozen`` by the row's number

    def __rich__(self) -> rich.table.Table:
        """Return the table for the terminal; no text in it is markup, and no control character gets through."""
        table = rich.table.Table(
            title=_text(self.title),
            title_justify="left",
            title_style="bold",
            caption="\n".join(map(formatting.one_line, self.note.splitlines())) or None,
            caption_justify="left",
            box=box.SIMPLE_HEAD if self.columns else None,
            show_header=bool(self.columns),
            show_edge=False,
            pad_edge=False,
            padding=(0, 1 if self.columns else 2, 0, 0),
        )
        for at, name in enumerate(self.columns):
            if at < self.texts:
                table.add_column(_text(name), overflow="fold")
            else:
                table.add_column(Text("\n".join(_halves(name))), justify="right", no_wrap=True)
        for at, row in enumerate(self.rows):
            table.add_row(*map(_lines, row), style=_STYLES.get(self.styles.get(at, "")))
        if self.footer:
            table.add_section()
        for row in self.footer:
            table.add_row(*map(_lines, row))
        return table

    def to_markdown(self) -> str:
        """Return the table without title and note as Markdown; the first cells of the footer are in italics."""
        rows = [[markdown.cell(as_cell(cell).line) for cell in row] for row in (*self.rows, *self.footer)]
        for row in rows[len(self.rows) :]:
            row[0] = f"*{row[0]}*"
        return markdown.table(list(map(markdown.cell, self.columns)), rows, self.texts)


_STYLES = {"best": "bold", "failed": "yellow", "frozen": "dim"}


def as_cell(cell: Cell | str) -> Cell:
    """Return a text as a cell of a text alone."""
    return cell if isinstance(cell, Cell) else Cell(cell)


def _text(data: str) -> Text:
    return Text(formatting.one_line(data))


def _halves(name: str) -> list[str]:
    """Return a long name in two or three lines of about the same length."""
    name = formatting.one_line(name)
    longest = max(map(len, name.split()), default=1)
    return textwrap.wrap(name, max(longest, (len(name) + 1) // 2)) if len(name) > 10 else [name]


def _lines(cell: Cell | str) -> Text:
    text = as_cell(cell).text
    return _text(text) if isinstance(text, str) else Text("\n").join(map(_text, text))


def _score(value: float | None) -> Cell:
    return Cell(formatting.score(value), value)


def _count(value: float | None) -> Cell:
    return Cell(formatting.count(value), value)


def _listed(texts: Sequence[str]) -> Cell:
    """Return texts each in a line of its own where there are lines, else with commas between them."""
    return Cell(texts, separator=", ")


def results_table(tasks: Reports) -> Table:
    """Return one row for each task and split: rows, accuracy, macro-F1, weighted-F1, and the majority class."""
    rows: Rows = [
        [
            *(task, split, _count(report.rows), _score(report.accuracy), _score(report.macro_f1)),
            *(_score(report.weighted_f1), _score(report.majority_accuracy)),
        ]
        for task, split, report in flat(tasks)
    ]
    columns = ["task", "split", "rows", "accuracy", "macro-F1", "weighted-F1", "majority class"]
    note = "majority class: accuracy of always predicting the most frequent class"
    return Table("Results", columns, rows, note, texts=2)


def calibration_table(tasks: Reports) -> Table:
    """Return for each task and split its temperature, and ECE, NLL and Brier score without and with it."""
    rows: Rows = [
        [task, split, f"{report.temperature:.3f}", *_changes(report, "ece", "nll", "brier")]
        for task, split, report in calibrations(tasks)
    ]
    columns = ["task", "split", "temperature", "ECE", "NLL", "Brier score"]
    return Table("Calibration", columns, rows, "without → with what was fitted on val; lower is better", texts=2)


def decision_table(tasks: Reports) -> Table | None:
    """Return what the tuned decision rule changes; None where no task has one."""
    rows: Rows = [
        [task, split, f"{report.tau:g}", *_changes(report, "accuracy", "macro_f1")]
        for task, split, report in calibrations(tasks)
        if report.tau
    ]
    note = "without → with tau times the training rows' log-frequencies subtracted from the logits"
    columns = ["task", "split", "tau", "accuracy", "macro-F1"]
    return Table("Decision rule", columns, rows, note, texts=2) if rows else None


def _changes(report: CalibrationReport, *names: str) -> list[str]:
    return [formatting.change(getattr(report.before, name), getattr(report.after, name)) for name in names]


def set_table(tasks: Reports) -> Table | None:
    """Return the figures of prediction sets of each task and split; None where no report has any."""
    rows: Rows = [
        [
            *(task, split, f"{row.coverage:g}", _score(row.covered), _score(row.lowest)),
            *(f"{row.size:.2f}", _score(row.single), _score(row.empty)),
        ]
        for task, split, report in flat(tasks)
        for row in (report.answering.sets if report.answering else ())
    ]
    columns = ["task", "split", "coverage", "reached", "lowest class", "labels in a set", "one label", "none"]
    note = "Share of the rows of each class whose set is to hold it, and what is reached; predict with coverage="
    return Table("Prediction sets", columns, rows, note, texts=2) if rows else None


def answer_table(tasks: Reports) -> Table | None:
    """Return how many rows of each task and split are answered at some risks; None where no report has any."""
    rows: Rows = [
        [task, split, f"{row.max_risk:g}", _score(row.answered), _score(row.wrong), _score(row.threshold)]
        for task, split, report in flat(tasks)
        for row in (report.answering.answers if report.answering else ())
    ]
    columns = ["task", "split", "risk", "answered", "wrong", "least probability"]
    note = "Share of wrong labels to accept among the rows that are answered; predict with max_risk="
    return Table("Answers", columns, rows, note, texts=2) if rows else None


def class_table(title: str, report: TaskReport, most: int | None = MOST_CLASSES) -> Table:
    """Return precision, recall, F1 and support of each class, with both averages and the accuracy in the footer.

    Classes with fewer than `RARE_SUPPORT` rows are marked. Of more than ``most`` classes those with the lowest F1 are
    shown, in the order of the task; None shows all.
    """
    lowest = set(weakest(report.per_class, len(report.per_class) if most is None else most))
    shown = {label: scores for label, scores in report.per_class.items() if label in lowest}
    rows: Rows = [
        [
            *(label, _score(scores.precision), _score(scores.recall), _score(scores.f1)),
            Cell(("* " if scores.support < RARE_SUPPORT else "") + formatting.count(scores.support), scores.support),
        ]
        for label, scores in shown.items()
    ]
    macro = (report.macro_precision, report.macro_recall, report.macro_f1)
    weighted = (report.weighted_precision, report.weighted_recall, report.weighted_f1)
    support = _count(report.rows)
    footer: Rows = [
        ["macro average", *map(_score, macro), support],
        ["weighted average", *map(_score, weighted), support],
        ["accuracy", "", "", _score(report.accuracy), support],
    ]
    notes = []
    if any(scores.support < RARE_SUPPORT for scores in shown.values()):
        notes.append(f"* fewer than {RARE_SUPPORT} rows: uncertain figures")
    if others := others_in_words(report.per_class, shown):
        notes.append(f"{others}: see the report")
    return Table(title, ["class", "precision", "recall", "F1", "support"], rows, "\n".join(notes), footer=footer)


def stage_table(title: str, stages: StageReports) -> Table:
    """Return rows, accuracy and macro-F1 of each stage of a multi-stage head."""
    reports = [("first", " / ".join(stages.first.labels), stages.first)]
    reports += [("second", name, report) for name, report in stages.second.items()]
    rows: list[Sequence[Cell | str]] = [
        [stage, what, _count(each.rows), _score(each.accuracy), _score(each.macro_f1)] for stage, what, each in reports
    ]
    if len(stages.second) > 1:
        figures = [_count(stages.second_rows), _score(stages.second_accuracy), _score(None)]
        rows.append(["second", "all of these", *figures])
    note = "second: among the rows of a coarse class, with that class given"
    return Table(title, ["stage", "decides", "rows", "accuracy", "macro-F1"], rows, note, texts=2)


def group_table(groups: Sequence[GroupRow]) -> Table:
    """Return the parameter groups from the bottom layer to the heads, with their rates and sizes."""
    rows: Rows = [  # names and states in two lines leave the layers their width
        [
            Cell(group.name.replace("/no_decay", "\n/no_decay").splitlines(), separator=""),
            _listed(formatting.layer_spans(group.layers)),
            Cell(textwrap.wrap(group.state, 12)),
            Cell(formatting.rate(group.learning_rate), group.learning_rate),
            Cell(formatting.rate(group.weight_decay), group.weight_decay),
            _count(group.parameters),
        ]
        for group in groups
    ]
    columns = ["group", "layers", "state", "rate", "decay", "parameters"]
    styles = {at: "frozen" for at, group in enumerate(groups) if group.state == "frozen"}
    return Table("Parameter groups", columns, rows, texts=3, styles=styles)


def unfreezing_table(stages: Sequence[StageRow]) -> Table:
    """Return when which layers begin to train, and how many parameters are trained from then on."""
    rows: Rows = [
        [
            str(number),
            stage.start,
            _listed(formatting.layer_spans(stage.begins)),
            _listed([f"{name} {formatting.rate(rate)}" for name, rate in stage.rates.items()]),
            _count(stage.parameters),
        ]
        for number, stage in enumerate(stages, 1)
    ]
    note = "peak rates and parameters: of all layers that are trained from then on"
    columns = ["stage", "from", "begins to train", "peak rates", "parameters"]
    return Table("Gradual unfreezing", columns, rows, note, texts=4)


def jobs_table(jobs: Sequence[JobRow]) -> Table:
    """Return a row for each job of a sweep with the macro-F1 of each task."""
    tasks = list(dict.fromkeys(task for job in jobs for task in job.reports))
    rows: list[list[Cell | str]] = []
    for job in jobs:
        if job.error:
            rows.append([str(job.number), job.overrides, "failed", *[""] * len(tasks)])
            continue
        splits = [job.reports.get(task, {}) for task in tasks]
        validated = [split["val"].macro_f1 for split in splits if "val" in split]
        scores = [statistics.fmean(validated) if validated else None]
        scores += [split[reported].macro_f1 if (reported := reported_split(split)) else None for split in splits]
        rows.append([str(job.number), job.overrides, *map(_score, scores)])
    note = (
        "macro-F1. val: the mean of all tasks on the validation rows, to choose a job by.\n"
        "Then each task on its test rows."
    )
    styles = {at: "failed" for at, job in enumerate(jobs) if job.error}
    return Table("Jobs of the sweep", ["job", "settings", "val", *tasks], rows, note, texts=2, styles=styles)


def plan_table(plan: Sequence[PlanRow]) -> Table:
    """Return what an epoch does with each task: its rows, its batches, and how often it goes through the rows."""
    rows: list[list[Cell | str]] = []
    for row in plan:
        repeated = (row.slots or row.rows) - row.rows
        shown = formatting.count(row.rows) + (f" + {formatting.count(repeated)} repeated" if repeated else "")
        rows.append([row.task, shown, _count(row.batches), f"{row.passes:.2f}"])
    return Table("Plan of an epoch", ["task", "rows", "batches per epoch", "passes over the rows"], rows)


def cost_table(cost: Cost, retention: Retention | None = None) -> Table:
    """Return what a run took, as far as it was measured, and what it took from the encoder's general ability."""
    return Table("Cost", (), [*cost_rows(cost), *([] if retention is None else [retention_row(retention)])])
