"""The error analysis of a task as Markdown: where it does worse, and its surest mistakes with what stands near them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mtl.base import formatting
from mtl.evaluation.error_analysis import ErrorAnalysis, Mistake
from mtl.evaluation.error_files import FOLDER
from mtl.evaluation.slices import SliceFigures
from mtl.reporting.markdown import code, escaped, folded, link, table

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
