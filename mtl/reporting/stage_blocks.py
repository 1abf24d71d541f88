"""The stages of a multi-stage head for a reader: the rows of their table, and the blocks of the Markdown report."""

from __future__ import annotations

from collections.abc import Iterator

from mtl.base import formatting
from mtl.evaluation.task_report import StageReports, TaskReport
from mtl.reporting.markdown import escaped, table

HEADER = ["stage", "decides", "rows", "accuracy", "macro-F1"]
MEANING = (
    "First stage: which coarse class, by the sum of the probabilities of its labels. Second stage: which label, among "
    "the rows of a coarse class and with that class given."
)


def stage_rows(stages: StageReports) -> list[list[str]]:
    """Return a row of `HEADER` for the first stage, and one for each coarse class that the second one divides."""
    first = ["first", listed_classes(stages.first), *_figures(stages.first)]
    second = [["second", name, *_figures(report)] for name, report in stages.second.items()]
    if len(second) > 1:
        accuracy = formatting.score(stages.second_accuracy)
        second.append(["second", "all of these", formatting.count(stages.second_rows), accuracy, formatting.NOTHING])
    return [first, *second]


def listed_classes(report: TaskReport) -> str:
    """Return the classes in one line."""
    return " / ".join(report.labels)


def _figures(report: TaskReport) -> list[str]:
    return [formatting.count(report.rows), formatting.score(report.accuracy), formatting.score(report.macro_f1)]


def stage_blocks(stages: StageReports, most: int) -> Iterator[str]:
    """Yield the Markdown blocks.

    Args:
        stages: The figures.
        most: The most coarse classes of which the confusion matrix is shown.
    """
    yield "**Stages**"
    rows = [[escaped(stage), escaped(what), *figures] for stage, what, *figures in stage_rows(stages)]
    yield table(HEADER, rows, left=2)
    losses = (stages.first_loss, stages.second_loss, stages.first_loss + stages.second_loss)
    first, second, both = map(formatting.score, losses)
    yield f"{MEANING} Loss (mean of -log p): {first} in the first stage, {second} in the second, {both} in all."
    if len(stages.first.labels) <= most:
        yield "**Confusion matrix of the first stage** (a row for each true class, a column for each predicted one)"
        yield confusion_table(stages.first)


def confusion_table(report: TaskReport) -> str:
    """Return the confusion matrix as Markdown, what is right in bold."""
    rows = [
        [escaped(label), *(f"**{cell:,}**" if at == column else f"{cell:,}" for column, cell in enumerate(cells))]
        for at, (label, cells) in enumerate(zip(report.labels, report.confusion, strict=True))
    ]
    return table(["true \\ predicted", *map(escaped, report.labels)], rows)
