"""The labels of a task in their fixed order: the position of a label is its class id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from mtl.base.errors import did_you_mean, listed
from mtl.data.problems import ProblemLog, plural

if TYPE_CHECKING:
    from mtl.data.examples import Examples
    from mtl.data.table import IntArray


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The names of the classes, in the order of a head's logits.

    Raises:
        ValueError: There is no label, or one stands twice.
    """

    names: tuple[str, ...]  # the labels; class ``i`` is ``names[i]``

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("a label set needs at least one label")
        repeated = [name for name, count in Counter(self.names).items() if count > 1]
        if repeated:
            raise ValueError(f"labels that stand more than once: {listed(map(repr, repeated))}")

    @classmethod
    def found_in(cls, examples: Examples, classes: Sequence[str] = ()) -> Self:
        """Return the labels that occur: in the order of ``classes``, the others sorted as texts, or all as numbers."""
        labels = _sorted(examples.distinct_labels())
        known = [name for name in classes if name in labels]
        return cls((*known, *(name for name in labels if name not in known)))

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def ids(self, examples: Examples) -> IntArray:
        """Return the class id of each example, int64, shape ``(N,)``.

        Raises:
            DataError: Some labels are not in this set; each is named with the line where it first stands.
        """
        codes = examples.label_codes(self.names)
        if (codes < 0).any():
            log = ProblemLog(examples.path)
            self.note_unknown(examples, log)
            log.raise_if_any()
        return codes

    def note_unknown(self, examples: Examples, log: ProblemLog, expected: str = "", repair: str = "") -> None:
        """Tell the log of each label that is not in this set, once, at the line where it first stands.

        Args:
            examples: Where to look.
            log: Receives the problems.
            expected: What the problem says is expected; default: one of the labels of this set.
            repair: How to correct it, after the near label that was possibly meant.
        """
        expected = expected or f"one of {listed(self.names)}"
        for name, line, count in first_places(examples, set(examples.distinct_labels()).difference(self.names)):
            hint = "" if log.full else did_you_mean(name, self.names)
            found = f"the label {name!r} ({plural(count, 'row')}{', the first here' if count > 1 else ''})"
            log.add(line, found, expected, " ".join(part for part in (hint, repair) if part))


def first_places(examples: Examples, labels: Iterable[str]) -> list[tuple[str, int, int]]:
    """Return for each of some labels that occur its name, the line where it first stands and its rows, by line."""
    names = sorted(labels)
    if not names:
        return []
    codes = examples.label_codes(names)
    present, first, counts = np.unique(codes, return_index=True, return_counts=True)
    lines = examples.lines[first]
    places = zip(present.tolist(), lines.tolist(), counts.tolist(), strict=True)
    return sorted(((names[code], line, count) for code, line, count in places if code >= 0), key=lambda place: place[1])


def _sorted(names: Iterable[str]) -> list[str]:
    names = sorted(names)
    try:
        return sorted(names, key=int)
    except ValueError:
        return names
