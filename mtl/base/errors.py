"""Errors that a user can repair: each names the place, what was found, what is allowed, and the repair."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

_MOST_CHARACTERS = 2000
_MOST_PROBLEMS = 100
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that move a cursor, change colours, end a line or reorder text, and lone surrogates; not tab, newline."""


def printable(text: object) -> str:
    r"""Return a text for a terminal or a log, its control characters written as escapes: ``\x1b[31m``.

    Labels, paths and names from files could otherwise hide or forge output.
    """
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem in the user's input.

    Attributes:
        place: Where it is: a file with its line (``reviews.csv:17``) or a full key (``trainer.max_epochs``).
        found: The value there.
        expected: What is allowed there.
        repair: How to repair it, ideally as text to paste; empty if ``expected`` is enough.
    """

    place: str
    found: str
    expected: str
    repair: str = ""

    def __str__(self) -> str:
        place = self.place.replace("\n", "\\n")
        lines = [_shown(place), f"    found:    {_shown(self.found)}", f"    expected: {_shown(self.expected)}"]
        if self.repair:
            lines.append(f"    repair:   {_shown(self.repair)}")
        return "\n".join(lines)


def _shown(text: str) -> str:
    """Return a printable form of the text, without the middle of a very long one."""
    if len(text) > _MOST_CHARACTERS:
        half = _MOST_CHARACTERS // 2
        text = f"{text[:half]} … ({len(text) - 2 * half:,} more characters) … {text[-half:]}"
    return printable(text)


class MtlError(Exception):
    """Base of all errors that a user can repair; a command shows it without a traceback and exits with 2."""

    subject: ClassVar[str] = "Input"

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        count = len(self.problems)
        head = f"{self.subject}: {count} problem{'s' if count != 1 else ''}"
        shown = [f"  {line}" for problem in self.problems[:_MOST_PROBLEMS] for line in str(problem).splitlines()]
        rest = [f"  and {count - _MOST_PROBLEMS:,} more problems"] if count > _MOST_PROBLEMS else []
        super().__init__("\n".join([head, *shown, *rest]))

    def __reduce__(self) -> tuple[type[MtlError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)

    def to_json(self) -> str:
        """Return the error as text for another process, see `from_json`."""
        kind = next(kind for kind in type(self).__mro__ if kind.__name__ in _kinds())
        return json.dumps({"kind": kind.__name__, "problems": [asdict(problem) for problem in self.problems]})

    @staticmethod
    def from_json(text: str) -> MtlError:
        """Return the error that `to_json` has made a text of: one of the classes below, with its problems."""
        values = json.loads(text)
        return _kinds()[values["kind"]](Problem(**problem) for problem in values["problems"])


def _kinds() -> dict[str, type[MtlError]]:
    kinds: list[type[MtlError]] = [MtlError, *MtlError.__subclasses__()]
    return {kind.__name__: kind for kind in kinds}


class ConfigError(MtlError):
    """A problem of the configuration: an unknown key, a wrong type, a value out of range, an unknown name."""

    subject = "Configuration"


class DataError(MtlError):
    """A problem of a data file: its place is the file, with the line if there is one."""

    subject = "Data"


class ModelError(MtlError):
    """A problem of weights or a saved model: not reachable, damaged, or not a model at all."""

    subject = "Model"


class TrainingError(MtlError):
    """Training cannot continue: its place is the step."""

    subject = "Training"


class DiskError(MtlError):
    """There is no space left to write to."""

    subject = "Disk"


class Terminated(BaseException):
    """The process was asked to end, and with it all jobs of a sweep; its text says how to resume."""


def did_you_mean(word: str, candidates: Sequence[str]) -> str:
    """Return ``did you mean X?`` for the candidate most similar to ``word``, or an empty text if none is similar."""
    folded = {candidate.lower(): candidate for candidate in candidates}
    near = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    return f"did you mean {folded[near[0]]}?" if near else ""


def listed(names: Iterable[str], most: int = 12) -> str:
    """Return the names in one line, the rest counted when there are more than ``most``."""
    names = list(names)
    rest = f" (+{len(names) - most} more)" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
