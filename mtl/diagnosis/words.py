"""The findings of a diagnosis in plain words, which follow from its figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mtl.base import formatting
from mtl.data.problems import plural
from mtl.diagnosis.data_need import LEAST_ROWS, ClassNeed
from mtl.diagnosis.task import TaskDiagnosis
from mtl.evaluation.summary import frequent_confusions

SURE = 0.8
"""From this share of the bootstrap samples on the class with the largest gain is named alone."""
_MOST_NAMED = 5


def sentences(diagnosis: TaskDiagnosis) -> list[str]:
    """Return what was found about a task, the most useful first, a sentence or two each."""
    return [*need_sentences(diagnosis), *_confused(diagnosis), *_duplicates(diagnosis), *_suspects(diagnosis)]


def need_sentences(diagnosis: TaskDiagnosis) -> list[str]:
    """Return what to collect: one class, several that cannot be told apart, or that the evidence supports none."""
    known = [need for need in diagnosis.needs if need.enough]
    supported = [need for need in known if need.supported]
    sentences = list(_recommended(supported, diagnosis.more)) if supported else []
    if known and not supported:
        sentences.append(
            f"the evidence supports collecting no class in particular: the largest gain from {diagnosis.more} more "
            f"examples is {_gain(known[0])} for {known[0].label!r}, which {_chance(known)}"
        )
    return [*sentences, *_too_few([need for need in diagnosis.needs if not need.enough])]


def _chance(known: Sequence[ClassNeed]) -> str:
    if known[0].low <= 0:
        return "may be nothing"
    return f"chance alone may give the luckiest of {len(known)} classes"


def _too_few(few: Sequence[ClassNeed]) -> Iterator[str]:
    if len(few) <= _MOST_NAMED:
        for need in few:
            rows = plural(need.rows, "training row")
            yield f"{need.label!r} has {rows}, too few to tell: collect at least {LEAST_ROWS}"
        return
    names = ", ".join(f"{need.label!r} ({need.rows})" for need in few[:_MOST_NAMED])
    yield (
        f"{len(few)} classes have fewer than {LEAST_ROWS} training rows, too few to tell: collect at least "
        f"{LEAST_ROWS} of each: {names} and {len(few) - _MOST_NAMED} more, see data_need"
    )


def _recommended(worth: list[ClassNeed], more: int) -> Iterator[str]:
    first, *others = worth
    yield (
        f"collect more {first.label!r}: {more} more examples are worth about {_gain(first)}; "
        f"it has {plural(first.rows, 'training row')}"
    )
    rivals = [need for need in others if need.high > first.low and need.best >= 1 - SURE]
    if first.best < SURE and rivals:
        near = ", ".join(f"{need.label!r} ({_gain(need)})" for need in rivals)
        yield f"nearly as much may come from {near}: the figures do not tell them apart for certain"


def _gain(need: ClassNeed) -> str:
    return f"{need.gain:+.3f} macro-F1 ({need.low:.3f} to {need.high:.3f})"


def _confused(diagnosis: TaskDiagnosis) -> Iterator[str]:
    for confusion in frequent_confusions(diagnosis.report, most=1):
        yield (
            f"most often confused: {confusion.label!r} taken for {confusion.predicted!r}, {confusion.count:,} of "
            f"{confusion.support:,} training rows ({formatting.share(confusion.count, confusion.support)}) "
            "when a head has not seen them"
        )


def _duplicates(diagnosis: TaskDiagnosis) -> Iterator[str]:
    leaks = diagnosis.of_kind("leak")
    if leaks:
        rows = len({each.second.source for each in leaks})
        yield (
            f"{plural(rows, 'validation or test row')} with the text of a training row, or nearly so: "
            "the figures on them are too good"
        )
    different = diagnosis.of_kind("different labels")
    if different:
        yield f"{plural(len(different), 'pair')} of training rows with nearly the same text and different labels"
    repeated = diagnosis.of_kind("repeated")
    if repeated:
        yield f"{plural(len(repeated), 'pair')} of training rows with nearly the same text and the same label"
    if not diagnosis.duplicates:
        yield "no near-duplicates"


def _suspects(diagnosis: TaskDiagnosis) -> Iterator[str]:
    count, rows = diagnosis.suspects.count, diagnosis.sizes["train"]
    if not count:
        yield "no label looks wrong"
        return
    yield (
        f"{plural(count, 'label')} of {rows:,} may be wrong or hard to tell ({formatting.share(count, rows)}): "
        f"review suspects_{diagnosis.task}.csv from the top"
    )
