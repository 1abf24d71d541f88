"""The labels of a task in their fixed order: the position of a label is its class id."""

from __future__ import annotations

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
    """The names of the classes, each once, in the order of a head's logits."""

    names: tuple[str, ...]  # class ``i`` is ``names[i]``

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
        """Return the class id of each example, int64, shape ``(N,)``; -1 for a label that is not in this set."""
        return examples.label_codes(self.names)

    def note_unknown(self, examples: Examples, log: ProblemLog, expected: str = "", repair: str = "") -> None:
        """Tell the log of each label that is not in this set, once, at the line where it first stands.

        By default one of the labels of this set is expected; ``repair`` comes after the near label that was possibly
        meant.
        """
        unknown = sorted(set(examples.distinct_labels()).difference(self.names))
        if not unknown:
            return
        codes, rows, counts = np.unique(examples.label_codes(unknown), return_index=True, return_counts=True)
        lines = examples.lines[rows]
        for at in np.argsort(lines):
            if codes[at] < 0:  # all labels of this set
                continue
            name, count = unknown[codes[at]], int(counts[at])
            hint = "" if log.full else did_you_mean(name, self.names)
            found = f"the label {name!r} ({plural(count, 'row')}{', the first here' if count > 1 else ''})"
            repairs = " ".join(part for part in (hint, repair) if part)
            log.add(int(lines[at]), found, expected or f"one of {listed(self.names)}", repairs)


def _sorted(names: Iterable[str]) -> list[str]:
    names = sorted(names)
    try:
        return sorted(names, key=int)
    except ValueError:
        return names
