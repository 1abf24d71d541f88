"""English words that make a sentence hard to read for a model: negations, contrasts, praise and blame side by side.

The lists are short on purpose: common words of reviews and messages that a reader can check at a glance. A text in
another language has none of them, and so no such slice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple


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
_REACH = 3  # words behind a negation that it turns over, in the same clause


class Signs(NamedTuple):
    """What a text holds.

    Attributes:
        negation: A word of `NEGATIONS`, or one that ends in ``n't``.
        contrast: A word of `CONTRASTS`.
        mixed: Something positive and something negative: a word of `POSITIVE` or `NEGATIVE` counts for its side, and
            for the other one where one of the three words before it negates, with no punctuation between: *good but
            slow*, *fast, not friendly*.
    """

    negation: bool
    contrast: bool
    mixed: bool


def signs_of(text: str) -> Signs:
    """Return what a text holds; case and the shape of the apostrophe do not matter."""
    clauses = [_WORD.findall(clause) for clause in _CLAUSE_END.split(text.replace("’", "'").lower())]
    words = [word for clause in clauses for word in clause]
    sides = {side for clause in clauses for side in _sides(clause)}
    return Signs(any(map(_negates, words)), not CONTRASTS.isdisjoint(words), len(sides) == 2)


def _negates(word: str) -> bool:
    return word in NEGATIONS or word.endswith("n't")


def _sides(words: Sequence[str]) -> Iterator[bool]:
    """Yield for each word of praise or blame whether it is praise, as it stands."""
    for at, word in enumerate(words):
        if word in POSITIVE or word in NEGATIVE:
            yield (word in POSITIVE) != any(map(_negates, words[max(0, at - _REACH) : at]))
