"""Sections of the Markdown report: error analysis, calibration, and the stages of multi-stage heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mtl.base import formatting
from mtl.evaluation.errors import FOLDER, ErrorAnalysis, Mistake
from mtl.evaluation.records import CalibrationReport, Reports, StageReports, TaskReport
from mtl.evaluation.run_summary import calibrations
from mtl.evaluation.slices import SliceFigures
from mtl.reporting.markdown import code, escaped, folded, link, quoted, table
from mtl.reporting.tables import Table, answer_table, calibration_table, decision_table, set_table, stage_table


def calibration_section(tasks: Reports) -> Iterator[str]:
    """Yield the Markdown blocks; nothing where no report has a calibration."""
    reports = calibrations(tasks)
    if not reports:
        return
    yield from ("## Calibration", calibration_table(tasks).to_markdown(), _EXPLAINED)
    if decisions := decision_table(tasks):
        yield from ("**Decision rule**", decisions.to_markdown(), _RULE_EXPLAINED)
    for task, split, report in reports:
        if split != "val" or "test" not in tasks[task]:
            yield folded(f"Reliability of {task} on {split}", _bins(report))


def answering_section(tasks: Reports) -> Iterator[str]:
    """Yield the Markdown blocks of prediction sets and abstention; nothing where no report has them."""
    sets, answers = set_table(tasks), answer_table(tasks)
    if sets is not None and answers is not None:
        yield from ("## When not to answer", sets.to_markdown(), _SETS_EXPLAINED)
        yield from (answers.to_markdown(), _ANSWERS_EXPLAINED)


_SETS_EXPLAINED = (
    "`predict` with `coverage=` adds the *set* of labels that cannot be ruled out. Of the texts of each label the "
    "share *coverage* is to have it in its set, on average over validation sets. *Reached* is that share of all rows "
    "here, *lowest class* that of the class where it is lowest. For labels with few validation rows "
    "it holds for all of them together (Ding et al. 2023). A set is empty if the text is unlike the rows of any label "
    "(Sadinle et al. 2019)."
)
_ANSWERS_EXPLAINED = (
    "`predict` with `max_risk=` abstains where the predicted label is less probable than a threshold. Of the texts "
    "*answered* at most the share *risk* is to be *wrong*, with a probability of 95 % over validation sets (Geifman "
    "and El-Yaniv 2017). The thresholds come from the validation rows."
)
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


def _bins(report: CalibrationReport) -> str:
    score = formatting.score
    rows = [
        [f"{group.lower:.3f}–{group.upper:.3f}", f"{group.count:,}", score(group.confidence), score(group.accuracy)]
        for group in report.bins
        if group.count
    ]
    return Table("", ["probability of the predicted class", "rows", "mean", "share right"], rows).to_markdown()


_MISTAKES = 8
_SLICES = 12


def error_blocks(task: str, analysis: ErrorAnalysis) -> Iterator[str]:
    """Yield the Markdown blocks of the slices and mistakes of a task."""
    yield from _slices(task, analysis)
    if not analysis.mistakes:
        return
    shown = analysis.mistakes[:_MISTAKES]
    yield f"**Most confident mistakes** ({len(shown)} of {formatting.count(analysis.wrong)})"
    yield "\n".join(_mistake(task, mistake) for mistake in shown)
    yield _explained(task, analysis)


def _slices(task: str, analysis: ErrorAnalysis) -> Iterator[str]:
    if not analysis.slices:
        return
    shown, rest = analysis.slices[:_SLICES], analysis.slices[_SLICES:]
    worse = [each for each in analysis.slices if each.beyond_noise and each.difference < 0]
    yield "**Slices**"
    if worse:
        names = "; ".join(f"{escaped(each.kind)} ({escaped(_value(each))})" for each in worse[:3])
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
    columns = ["slice", "which rows", "rows", "accuracy", "95 % interval", "difference", "macro-F1", "extra mistakes"]
    return Table("", columns, [_slice(each) for each in slices], texts=2).to_markdown()


def _slice(figures: SliceFigures) -> list[str]:
    mark = "" if not figures.beyond_noise else " ↓" if figures.difference < 0 else " ↑"
    return [
        figures.kind,
        _value(figures),
        formatting.count(figures.support),
        formatting.score(figures.accuracy),
        f"{figures.low:.2f}–{figures.high:.2f}",
        f"{figures.difference:+.3f}{mark}",
        formatting.score(figures.macro_f1),
        f"{extra:+d}" if (extra := round(figures.extra_errors)) else "0",
    ]


def _value(figures: SliceFigures) -> str:
    return formatting.shortened(figures.value, 40)


def _mistake(task: str, mistake: Mistake) -> str:
    head = (
        f"- {quoted(mistake.text)} ({escaped(task)}, {code(mistake.source)})  \n"
        f"  is **{escaped(mistake.label)}**, taken for **{escaped(mistake.predicted)}** "
        f"(p = {formatting.score(mistake.probability)})"
    )
    if not mistake.nearest:
        return head
    doubt = ", the label of most of the nearest training rows" if mistake.contradicts else ""
    neighbours = [
        f"  - {near.similarity:.2f} **{escaped(near.label)}**: {quoted(near.text)} ({code(near.source)})"
        for near in mistake.nearest
    ]
    return "\n".join([f"{head}{doubt}", *neighbours])


def _explained(task: str, analysis: ErrorAnalysis) -> str:
    kept = len(analysis.mistakes)
    which = "All mistakes" if kept == analysis.wrong else f"The {formatting.count(kept)} most confident mistakes"
    words = f"{which} with the nearest training rows: {link(f'{FOLDER}/{task}_{analysis.split}.csv')}."
    if not analysis.note:
        return words
    doubted = sum(mistake.contradicts for mistake in analysis.mistakes)
    return (
        f"Below each mistake the nearest training rows (cosine of the embeddings, {escaped(analysis.note)}). "
        f"For {formatting.count(doubted)} of {formatting.count(kept)} mistakes most of them have the predicted label: "
        f"either the row is labelled wrong, or rows like it are labelled in two ways. {words}"
    )


_MEANING = (
    "First stage: which coarse class, by the sum of the probabilities of its labels. Second stage: which label, among "
    "the rows of a coarse class and with that class given."
)


def stage_blocks(stages: StageReports, most: int) -> Iterator[str]:
    """Yield the Markdown blocks; the confusion matrix only of at most ``most`` coarse classes."""
    yield from ("**Stages**", stage_table("Stages", stages).to_markdown())
    losses = (stages.first_loss, stages.second_loss, stages.first_loss + stages.second_loss)
    first, second, both = map(formatting.score, losses)
    yield f"{_MEANING} Loss (mean of -log p): {first} in the first stage, {second} in the second, {both} in all."
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
