"""The problems of one data file, collected while it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mtl.base.errors import DataError, Problem, did_you_mean, listed

_MOST_PER_FILE = 20
_MOST_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a file to read."""

    # The name of each column that is needed by its role: ``{"text": "sentence", "label": "stars"}``
    by_role: Mapping[str, str]
    # Where these names are configured (``data.tasks.sentiment``), for the repairs in error messages
    config_key: str = ""
    # Further columns whose values are kept as they are, for the figures of parts of the rows
    extra: tuple[str, ...] = field(default=(), kw_only=True)
    label_optional: bool = field(default=False, kw_only=True)  # whether a row may have no label

    @property
    def names(self) -> list[str]:
        """The columns to read, each once."""
        return list(dict.fromkeys([*self.by_role.values(), *self.extra]))

    @property
    def required(self) -> Columns:
        """The same columns without a label that rows may lack."""
        if not self.label_optional:
            return self
        return replace(self, by_role={role: name for role, name in self.by_role.items() if role != "label"})

    def override(self, role: str, name: str = "") -> str:
        """Return the configuration override that makes ``name`` the column of ``role``."""
        key = f"{self.config_key}.{role.split()[0]}_column".removeprefix(".")
        return f"{key}={name if name.isidentifier() else repr(name)}" if name else f"{key}="


class ProblemLog:
    """Collects the problems of one file: the first ones in full, the others as a count."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: list[tuple[int, Problem]] = []
        self._rest = 0

    def __bool__(self) -> bool:
        return bool(self._kept)

    @property
    def full(self) -> bool:
        """Whether further problems are only counted, so that their wording need not be worked out."""
        return len(self._kept) >= _MOST_PER_FILE

    def add(self, line: int | None, found: str, expected: str, repair: str = "") -> None:
        """Note a problem in ``line`` (1 is the first; of a Parquet file: the row), or of the whole file if ``None``."""
        if self.full:
            self._rest += 1
            return
        place = str(self._path) if line is None else f"{self._path}:{line}"
        self._kept.append((line or 0, Problem(place, found, expected, repair)))

    def problems(self) -> list[Problem]:
        """Return the problems by line, followed by one that counts those that were not kept."""
        kept = [problem for _, problem in sorted(self._kept, key=lambda entry: entry[0])]
        if not self._rest:
            return kept
        found = f"{self._rest} more problem{'s' if self._rest != 1 else ''} in this file"
        return [*kept, Problem(str(self._path), found, "none", "fix those above and run again to see the others")]

    def raise_if_any(self) -> None:
        """Raise a `DataError` with all problems if there are any."""
        if self:
            raise DataError(self.problems())


def shown(value: object) -> str:
    """Return ``value`` as an error message shows it: texts in quotes, long ones cut."""
    text = repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"


def plural(count: int, noun: str) -> str:
    """Return ``count`` with its noun: ``1 row``, ``2 rows``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def check_columns(names: Sequence[str], columns: Columns, log: ProblemLog, line: int | None) -> set[str]:
    """Note each wanted column that the file has not, or has twice, and return the names of those columns.

    ``line`` is that of the header, with the columns ``names``; ``None`` where the file has none.
    """
    wrong = set()
    for role, name in (*columns.by_role.items(), *(("", name) for name in columns.extra)):
        count = names.count(name)
        if count == 1:
            continue
        wrong.add(name)
        if count > 1:
            log.add(line, f"{count} columns named {name!r}", "one", "rename or remove the others")
        elif role:
            add_missing(names, columns, role, log, line)
        else:
            setting = f"{columns.config_key}.slices".removeprefix(".")
            hint = did_you_mean(name, names)
            other = f"name columns of the file in {setting}, or take {name!r} out"
            repair = f"{hint} correct {setting}" if hint else other
            log.add(line, _listed(names), f"a column {name!r}, which {setting} names", repair)
    return wrong


def add_missing(names: Sequence[str], columns: Columns, role: str, log: ProblemLog, line: int | None) -> None:
    """Note that the file has no column for ``role`` (see `check_columns`)."""
    wanted = columns.by_role[role]
    hint = did_you_mean(wanted, names)
    near = hint.removeprefix("did you mean ").removesuffix("?")
    if near:
        repair = f"{hint} set {columns.override(role, near)}"
    else:
        header = "" if line is None else ", or add a header line"
        repair = f"name the column that holds the {role}s with {columns.override(role)}{header}"
    log.add(line, _listed(names), f"a column {wanted!r}", repair)


def _listed(names: Sequence[str]) -> str:
    return f"columns {listed(repr(name) for name in names)}" if names else "no columns"
