"""The report of a run as Markdown: results first, then what was trained, its cost, and the files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mtl.base import formatting
from mtl.base.files import write_text_atomically
from mtl.evaluation.predictions import ConfusionExample
from mtl.evaluation.records import Retention, TaskReport
from mtl.evaluation.run_metrics import Cost
from mtl.evaluation.run_summary import (
    RARE_SUPPORT,
    Confusion,
    Picture,
    RunSummary,
    cost_rows,
    frequent_confusions,
    reported_split,
    retention_row,
)
from mtl.evaluation.task_gradients import GradientFigures, method, sentences
from mtl.reporting.markdown import code, escaped, folded, image, link, quoted
from mtl.reporting.sections import answering_section, calibration_section, confusion_table, error_blocks, stage_blocks
from mtl.reporting.tables import class_table, group_table, results_table, unfreezing_table

MATRIX_CLASSES = 12
"""With more classes a confusion matrix is too wide to read; the most frequent confusions stand for it."""


def write_report(path: str | Path, summary: RunSummary) -> None:
    """Write the report of a run as Markdown, whole or not at all."""
    write_text_atomically(path, render_report(summary))


def render_report(summary: RunSummary) -> str:
    """Return the report of a run as Markdown."""
    return "\n\n".join(_blocks(summary)) + "\n"


def _blocks(summary: RunSummary) -> Iterator[str]:
    yield f"# {escaped(summary.title)}"
    if summary.facts:
        yield "\n".join(f"- **{escaped(name)}**: {escaped(fact)}" for name, fact in summary.facts.items())
    yield from (f"> **Warning:** {escaped(warning)}" for warning in summary.warnings)
    yield from _results(summary.tasks)
    for task, splits in summary.tasks.items():
        yield from _task(task, splits, summary)
    yield from calibration_section(summary.tasks)
    yield from answering_section(summary.tasks)
    if "training" in summary.pictures:
        yield from ("## Training", image(summary.pictures["training"]))
    if summary.groups:
        yield from _groups(summary)
    if summary.cost != Cost():
        yield from ("## Cost", "\n".join(f"- {name}: {value}" for name, value in cost_rows(summary.cost)))
    if summary.retention is not None:
        yield from ("## Retention", *_retention(summary.retention))
    if summary.gradients is not None and summary.gradients.agreements:
        yield from ("## Do the tasks fight?", *_gradients(summary.gradients))
    if summary.files:
        lines = [f"- {link(path)}: {escaped(what)}" for path, what in summary.files.items()]
        yield from ("## Files", "\n".join(lines))


def _retention(retention: Retention) -> Iterator[str]:
    yield f"- {': '.join(retention_row(retention))}"
    yield (
        "How well the cosine of two embeddings ranks sentence pairs by their similarity: what the encoder still knows "
        "beside the tasks. A loss here matters where the embeddings also serve search or clustering."
    )


def _gradients(gradients: GradientFigures) -> Iterator[str]:
    yield "\n".join(f"- {escaped(sentence)}" for sentence in sentences(gradients))
    yield escaped(method(gradients))


def _results(tasks: Mapping[str, Mapping[str, TaskReport]]) -> Iterator[str]:
    yield "## Results"
    yield results_table(tasks).to_markdown()
    yield (
        "*Macro* counts every class of the task once, also one without rows (0.000); *weighted* counts it by its rows. "
        "*Majority class* is the accuracy of always predicting the most frequent class: the figure to beat."
    )


def _task(task: str, splits: Mapping[str, TaskReport], summary: RunSummary) -> Iterator[str]:
    """Yield the figures on the test split, those of the other splits folded below; on the last if there is no test."""
    shown = reported_split(splits)
    for split in sorted(splits, key=lambda split: split != shown):
        report = splits[split]
        heading = f"{split}: {formatting.count(report.rows)} rows, accuracy {formatting.score(report.accuracy)}"
        blocks = list(_split(task, split, summary))
        if split == shown:
            yield from (f"## Task {escaped(task)}", f"On {escaped(heading)}.", *blocks)
            if task in summary.errors:
                yield from error_blocks(task, summary.errors[task])
        else:
            yield folded(f"On {heading}", *blocks)


def _split(task: str, split: str, summary: RunSummary) -> Iterator[str]:
    report, examples = summary.tasks[task][split], summary.examples.get((task, split), {})
    kinds = ("classes", "confusion", "reliability")
    classes, matrix, reliability = (summary.pictures.get(f"{task}_{split}_{kind}") for kind in kinds)
    yield class_table(task, report, most=None).to_markdown()
    if any(scores.support < RARE_SUPPORT for scores in report.per_class.values()):
        yield f"\\* Fewer than {RARE_SUPPORT} rows: the figures of this class are uncertain."
    if classes is not None:
        yield image(classes)
    confusions = frequent_confusions(report, most=5 if len(report.labels) <= MATRIX_CLASSES else 10)
    if confusions:
        lines = [
            _in_words(task, confusion, examples.get((confusion.label, confusion.predicted), ()))
            for confusion in confusions
        ]
        yield from ("**Most frequent confusions**", "\n".join(lines))
    else:
        yield "No row was taken for another class."
    yield from _matrix(report, matrix)
    if report.stages is not None:
        yield from stage_blocks(report.stages, most=MATRIX_CLASSES)
    if reliability is not None:
        yield from ("**Reliability**: accuracy over confidence", image(reliability))


def _in_words(task: str, confusion: Confusion, examples: Sequence[ConfusionExample]) -> str:
    words = (
        f"- **{escaped(confusion.label)}** taken for **{escaped(confusion.predicted)}**: "
        f"{formatting.count(confusion.count)} of {formatting.count(confusion.support)} rows "
        f"({formatting.share(confusion.count, confusion.support)})"
    )
    sentences = [
        f"  - {quoted(example.text)} ({escaped(task)}, {code(example.source)}, "
        f"p = {formatting.score(example.probability)})"
        for example in examples
    ]
    return "\n".join([words, *sentences])


def _matrix(report: TaskReport, picture: Picture | None) -> Iterator[str]:
    """Yield the confusion matrix: its picture with the table folded below, or the table."""
    classes = len(report.labels)
    if picture is not None:
        yield from ("**Confusion matrix**", image(picture))
    if classes > MATRIX_CLASSES:
        yield f"The whole confusion matrix of the {classes} classes stands in `metrics.json`."
        return
    found = confusion_table(report)
    if picture is not None:
        yield folded("The confusion matrix as a table", found)
        return
    yield "**Confusion matrix** (a row for each true class, a column for each predicted one)"
    yield found


def _groups(summary: RunSummary) -> Iterator[str]:
    yield "## Parameter groups"
    yield group_table(summary.groups).to_markdown()
    if summary.unfreezing:
        yield "**Gradual unfreezing**: the layers that begin to train, and what is trained from then on"
        yield unfreezing_table(summary.unfreezing).to_markdown()
