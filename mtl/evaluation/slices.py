"""Slices: subsets of the rows with something in common, and whether a task does worse on them than on all rows.

Words that make a sentence hard for a model (negations, contrasts, praise beside blame) are short lists of common
English words that can be checked at a glance; texts in other languages have no such slice.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from mtl.evaluation.counts import Integers, class_f1

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


NEGATIONS: Final = _set(
    "no not never none nobody nothing nowhere neither nor cannot cant wont dont doesnt didnt isnt wasnt arent werent "
    "couldnt wouldnt shouldnt hasnt havent hadnt aint without hardly barely scarcely"
)
CONTRASTS: Final = _set(
    "but although though however yet despite except whereas nevertheless nonetheless otherwise unfortunately"
)
POSITIVE: Final = _set(
    "good great best better excellent amazing awesome love loved loves like liked nice perfect perfectly wonderful "
    "fantastic happy pleased easy fast friendly helpful recommend beautiful fun enjoyed enjoy brilliant superb works "
    "worth delicious comfortable impressed thanks thank glad well cool reliable fresh"
)
NEGATIVE: Final = _set(
    "bad worst worse terrible awful horrible hate hated poor poorly disappointed disappointing slow broken broke cheap "
    "waste wasted useless boring rude late delayed cancelled lost problem problems fail failed fails crash crashes "
    "annoying ugly wrong dirty cold unacceptable ridiculous sucks stupid difficult hard expensive mess angry"
)

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_CLAUSE_END = re.compile(r"[.,;:!?]")
_REACH = 3  # words after a negation that it negates, within the same clause


class Signs(NamedTuple):
    """Which signs a text contains."""

    negation: bool  # a word of `NEGATIONS`, or one that ends in ``n't``
    contrast: bool  # a word of `CONTRASTS`
    # Both praise and blame. A word of `POSITIVE` or `NEGATIVE` changes sides where one of the three words before it,
    # without punctuation in between, is a negation: *good but slow*, *fast, not friendly*.
    mixed: bool


def signs_of(text: str) -> Signs:
    """Return the signs in a text; case and the shape of the apostrophe do not matter."""
    clauses = [_WORD.findall(clause) for clause in _CLAUSE_END.split(text.replace("’", "'").lower())]
    words = [word for clause in clauses for word in clause]
    sides = {side for clause in clauses for side in _sides(clause)}
    return Signs(any(map(_negates, words)), not CONTRASTS.isdisjoint(words), len(sides) == 2)


def _negates(word: str) -> bool:
    return word in NEGATIONS or word.endswith("n't")


def _sides(words: Sequence[str]) -> Iterator[bool]:
    """Yield for each word of praise or blame whether it is praise, negations considered."""
    for at, word in enumerate(words):
        if word in POSITIVE or word in NEGATIVE:
            yield (word in POSITIVE) != any(map(_negates, words[max(0, at - _REACH) : at]))


MOST_VALUES: Final = 10
"""The most slices of a column, besides `REST` and `EMPTY`."""
EMPTY: Final = "(empty)"
REST: Final = "(all other values)"
_Z = 1.959964  # of 95 %


@dataclass(frozen=True, slots=True)
class SliceFigures:
    """The metrics of a slice."""

    kind: str  # the criterion: ``length``, ``negation``, …, or the name of a column
    value: str  # the value of the criterion
    support: int  # the number of rows
    accuracy: float  # the share of rows that were predicted correctly
    macro_f1: float  # the mean F1 over the classes that have rows in the slice
    difference: float  # its accuracy minus that of all rows
    low: float  # lower end of the 95 % interval of its accuracy, see `wilson`
    high: float  # upper end
    extra_errors: float  # the mistakes minus those expected from the accuracy of all rows
    beyond_noise: bool  # whether the accuracy of all rows lies outside the interval


def slice_figures(
    texts: Sequence[str], labels: Sequence[str], predicted: Sequence[str], columns: Mapping[str, Sequence[str]]
) -> list[SliceFigures]:
    """Return the metrics of each slice, those that need attention first.

    First come slices where the task does worse beyond chance, then those without a difference beyond chance, then those
    where it does better; within these, slices with more extra mistakes come first. A slice of all rows is left out.
    """
    index = {name: at for at, name in enumerate(dict.fromkeys([*labels, *predicted]))}
    truth, answers = (np.array([index[name] for name in names], dtype=np.int64) for names in (labels, predicted))
    overall = float((truth == answers).mean()) if len(truth) else 0.0
    rows = [
        _figures(kind, value, truth[mask], answers[mask], overall)
        for kind, value, mask in slices(texts, columns)
        if 0 < mask.sum() < len(truth)
    ]
    return sorted(rows, key=lambda row: (_attention(row), -row.extra_errors))


def slices(texts: Sequence[str], columns: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str, Mask]]:
    """Yield kind, value and the mask ``(N,)`` of each slice, also of empty ones."""
    lengths = np.array([len(text.split()) for text in texts], dtype=np.float64)
    yield from (("length", value, mask) for value, mask in terciles(lengths, "words"))
    signs = np.array([signs_of(text) for text in texts], dtype=bool).reshape(len(texts), len(Signs._fields))
    yield "negation", "a negating word", signs[:, 0]
    yield "contrast", "but, although, …", signs[:, 1]
    yield "mixed polarity", "positive and negative words", signs[:, 2]
    for name, values in columns.items():
        yield from ((name, value, mask) for value, mask in _column(values))


def terciles(values: NDArray[np.float64], unit: str = "") -> Iterator[tuple[str, Mask]]:
    """Yield a name and the mask ``(N,)`` of the lower, middle and upper third of ``values`` ``(N,)``.

    Equal values belong to the same third, so that thirds may differ in size and may be empty.
    """
    if not len(values):
        return
    first, second = np.quantile(values, [1 / 3, 2 / 3], method="lower")
    unit = f" {unit}" if unit else ""
    yield f"up to {first:g}{unit}", values <= first
    yield f"above {first:g} up to {second:g}{unit}", (values > first) & (values <= second)
    yield f"above {second:g}{unit}", values > second


def wilson(right: int, rows: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share (Wilson 1927, doi:10.2307/2276774, in the form of Agresti and Coull).

    There is at least one row. Unlike the normal approximation it stays within 0 and 1, and it is usable with few rows
    and shares near 0 or 1.
    """
    share, z2 = right / rows, _Z * _Z
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = _Z * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows * rows)) / (1 + z2 / rows)
    return max(0.0, middle - half), min(1.0, middle + half)


def _figures(kind: str, value: str, truth: Integers, predicted: Integers, overall: float) -> SliceFigures:
    right, rows = int((truth == predicted).sum()), len(truth)
    low, high = wilson(right, rows)
    f1 = class_f1(truth, predicted, int(max(truth.max(), predicted.max())) + 1)
    return SliceFigures(
        kind=kind,
        value=value,
        support=rows,
        accuracy=right / rows,
        macro_f1=float(f1[np.unique(truth)].mean()),
        difference=right / rows - overall,
        low=low,
        high=high,
        extra_errors=rows * overall - right,
        beyond_noise=not low <= overall <= high,
    )


def _attention(figures: SliceFigures) -> int:
    if not figures.beyond_noise:
        return 1
    return 0 if figures.difference < 0 else 2


def _column(values: Sequence[str]) -> Iterator[tuple[str, Mask]]:
    texts = np.array([value if value.strip() else EMPTY for value in values], dtype=object)
    counts = Counter(texts.tolist())
    numbers = _numbers(list(counts))
    if len(counts) > MOST_VALUES and numbers is not None:
        known = texts != EMPTY
        for name, mask in terciles(np.array([numbers[text] for text in texts[known]], dtype=np.float64)):
            rows = np.zeros(len(texts), dtype=bool)
            rows[np.flatnonzero(known)[mask]] = True
            yield name, rows
        yield EMPTY, ~known
        return
    shown = [value for value, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_VALUES]]
    for value in shown:
        yield value, texts == value
    if len(counts) > len(shown):
        yield REST, ~np.isin(texts.astype(str), np.array(shown, dtype=str))


def _numbers(values: Sequence[str]) -> dict[str, float] | None:
    """Return the values as numbers; None unless all of them are finite numbers."""
    try:
        numbers = {value: float(value) for value in values if value != EMPTY}
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers.values())) else None
