"""Sections of the Markdown report: error analysis, calibration, and the stages of multi-stage heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mtl.base import formatting
from mtl.evaluation.errors import FOLDER, ErrorAnalysis, Mistake
from mtl.evaluation.records import DECISIONS, MEASURES, CalibrationReport, StageReports, TaskReport
from mtl.evaluation.run_summary import calibrations
from mtl.evaluation.slices import SliceFigures
from mtl.reporting.markdown import code, escaped, folded, link, table


def calibration_section(tasks: Mapping[str, Mapping[str, TaskReport]]) -> Iterator[str]:
    """Yield the Markdown blocks; nothing where no report has a calibration.

    Args:
        tasks: The report of each task (outer key) on each split (inner key).
    """
    found = calibrations(tasks)
    if not found:
        return
    yield from ("## Calibration", _figures(found), _EXPLAINED)
    if any(each.tau for _, _, each in found):
        yield from ("**Decision rule**", _decisions(found), _RULE_EXPLAINED)
    for task, split, each in found:
        if split != "val" or "test" not in tasks[task]:
            yield folded(f"Reliability of {task} on {split}", _bins(each))


_EXPLAINED = (
    "Without → with the *temperature*, by which the logits are divided (Guo et al. 2017). It was fitted on val, so the "
    "figures on test are the honest ones; it changes no predicted class. *ECE*, the expected calibration error, is the "
    "mean gap between confidence and accuracy; *NLL* the mean negative log-likelihood of the true classes; the *Brier "
    "score* the mean squared error of all probabilities. Lower is better."
)
_RULE_EXPLAINED = (
    "Without → with *tau* times the log-frequencies of the training rows taken out of the logits (Menon et al. 2021); "
    "tau was chosen on val for macro-F1, the weakest that is within one standard error of the best."
)

Rows = list[tuple[str, str, CalibrationReport]]


def _figures(found: Rows) -> str:
    rows = [
        [escaped(task), escaped(split), f"{each.temperature:.3f}", *_changes(each, MEASURES)]
        for task, split, each in found
    ]
    return table(["task", "split", "temperature", "ECE", "NLL", "Brier score"], rows, left=2)


def _decisions(found: Rows) -> str:
    rows = [[escaped(task), escaped(split), f"{each.tau:g}", *_changes(each, DECISIONS)] for task, split, each in found]
    return table(["task", "split", "tau", "accuracy", "macro-F1"], rows, left=2)


def _changes(found: CalibrationReport, names: tuple[str, ...]) -> list[str]:
    return [formatting.change(getattr(found.before, name), getattr(found.after, name)) for name in names]


def _bins(found: CalibrationReport) -> str:
    rows = [
        [
            f"{each.lower:.3f}–{each.upper:.3f}",
            formatting.count(each.count),
            formatting.score(each.confidence),
            formatting.score(each.accuracy),
        ]
        for each in found.bins
        if each.count
    ]
    return table(["probability of the predicted class", "rows", "mean", "share right"], rows)


_MISTAKES = 8
_SLICES = 12
_SENTENCE = 160  # characters


def error_blocks(task: str, analysis: ErrorAnalysis) -> Iterator[str]:
    """Yield the blocks.

    Args:
        task: The task.
        analysis: What goes wrong with it.
    """
    yield from _slices(task, analysis)
    if not analysis.mistakes:
        return
    shown = analysis.mistakes[:_MISTAKES]
    yield f"**Surest mistakes** ({len(shown)} of {formatting.count(analysis.wrong)})"
    yield "\n".join(_mistake(task, mistake) for mistake in shown)
    yield _explained(task, analysis)


def _slices(task: str, analysis: ErrorAnalysis) -> Iterator[str]:
    if not analysis.slices:
        return
    shown, rest = analysis.slices[:_SLICES], analysis.slices[_SLICES:]
    worse = [each for each in analysis.slices if each.beyond_noise and each.difference < 0]
    yield "**Slices**"
    if worse:
        names = "; ".join(f"{escaped(each.kind)} ({_value(each)})" for each in worse[:3])
        yield f"Worse than chance can explain: {names}{f'; and {len(worse) - 3} more' if len(worse) > 3 else ''}."
    else:
        yield "No slice is worse than chance can explain."
    yield _slice_table(shown)
    if rest:
        yield folded(f"{len(rest)} more slices", _slice_table(rest))
    yield (
        f"↓ and ↑: the accuracy of all rows lies outside the 95 % interval; by chance alone about "
        f"one slice in 20 is marked. Macro-F1 is over the classes in the slice. "
        f"*Extra mistakes* are those beyond the rate of all rows. Negation, contrast and polarity go by short lists of "
        f"English words. As a file: {link(f'{FOLDER}/{task}_{analysis.split}_slices.csv')}."
    )


def _slice_table(slices: Sequence[SliceFigures]) -> str:
    header = ["slice", "which rows", "rows", "accuracy", "95 % interval", "difference", "macro-F1", "extra mistakes"]
    return table(header, [_slice(each) for each in slices], left=2)


def _slice(found: SliceFigures) -> list[str]:
    mark = "" if not found.beyond_noise else " ↓" if found.difference < 0 else " ↑"
    return [
        escaped(found.kind),
        _value(found),
        formatting.count(found.support),
        formatting.score(found.accuracy),
        f"{found.low:.2f}–{found.high:.2f}",
        f"{found.difference:+.3f}{mark}",
        formatting.score(found.macro_f1),
        _whole(found.extra_errors),
    ]


def _whole(value: float) -> str:
    return f"{round(value):+d}" if round(value) else "0"


def _value(found: SliceFigures) -> str:
    return escaped(formatting.shortened(found.value, 40))


def _mistake(task: str, mistake: Mistake) -> str:
    head = (
        f"- “{_sentence(mistake.text)}” ({escaped(task)}, {code(mistake.source)})  \n"
        f"  is **{escaped(mistake.label)}**, taken for **{escaped(mistake.predicted)}** "
        f"(p = {formatting.score(mistake.probability)})"
    )
    if not mistake.nearest:
        return head
    doubt = ", the label of most of the nearest training rows" if mistake.contradicts else ""
    near = [
        f"  - {each.similarity:.2f} **{escaped(each.label)}**: “{_sentence(each.text)}” ({code(each.source)})"
        for each in mistake.nearest
    ]
    return "\n".join([f"{head}{doubt}", *near])


def _explained(task: str, analysis: ErrorAnalysis) -> str:
    kept = len(analysis.mistakes)
    which = "All mistakes" if kept == analysis.wrong else f"The {formatting.count(kept)} surest mistakes"
    words = f"{which} with the nearest training rows: {link(f'{FOLDER}/{task}_{analysis.split}.csv')}."
    if not analysis.note:
        return words
    doubted = sum(mistake.contradicts for mistake in analysis.mistakes)
    return (
        f"Below each mistake the nearest training rows (cosine of the embeddings, {escaped(analysis.note)}). "
        f"For {formatting.count(doubted)} of {formatting.count(kept)} mistakes most of them have the predicted label: "
        f"either the row is labelled wrong, or rows like it are labelled in two ways. {words}"
    )


def _sentence(text: str) -> str:
    return escaped(formatting.shortened(text, _SENTENCE))


HEADER = ["stage", "decides", "rows", "accuracy", "macro-F1"]
MEANING = (
    "First stage: which coarse class, by the sum of the probabilities of its labels. Second stage: which label, among "
    "the rows of a coarse class and with that class given."
)


def stage_rows(stages: StageReports) -> list[list[str]]:
    """Return a row of `HEADER` for the first stage, and one for each coarse class that the second one divides."""
    first = ["first", listed_classes(stages.first), *_stage_figures(stages.first)]
    second = [["second", name, *_stage_figures(report)] for name, report in stages.second.items()]
    if len(second) > 1:
        accuracy = formatting.score(stages.second_accuracy)
        second.append(["second", "all of these", formatting.count(stages.second_rows), accuracy, formatting.NOTHING])
    return [first, *second]


def listed_classes(report: TaskReport) -> str:
    """Return the classes in one line."""
    return " / ".join(report.labels)


def _stage_figures(report: TaskReport) -> list[str]:
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
