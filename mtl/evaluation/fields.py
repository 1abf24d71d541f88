"""Typed reading of JSON objects that collects every problem, each with the file and the way to the field."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Iterator
from typing import Any, TypeGuard

from mtl.base.errors import DataError, Problem

_GREATEST = sys.float_info.max  # NaN, infinities and whole numbers beyond every float compare as greater


class Fields:
    """A JSON object whose fields are asked for by name and type.

    A field that misses or holds something else is noted and answered with an empty value of the type, so that one
    pass finds all problems; `finish` raises them.

    Args:
        values: What should be a JSON object.
        source: The file that it was read from.
        keys: The keys that lead to it in that file.
        problems: Where problems are noted; shared with the objects inside.
    """

    def __init__(
        self, values: Any, source: str, keys: tuple[str, ...] = (), problems: list[Problem] | None = None
    ) -> None:
        self._source = source
        self._keys = keys
        self._problems: list[Problem] = [] if problems is None else problems
        self._values: dict[str, Any] = values if isinstance(values, dict) else {}
        self._known_broken = not isinstance(values, dict)
        if self._known_broken:
            self._note(self._found(values), "a JSON object")

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def missing(self, name: str) -> bool:
        """Tell whether a field is null or not there."""
        return self._values.get(name) is None

    def number(self, name: str) -> float:
        """Return a number, whole or not."""
        value = self._values.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _GREATEST:
            return float(value)
        self._note_field(name, "a number")
        return 0.0

    def integer(self, name: str) -> int:
        """Return a whole number from 0 upwards."""
        value = self._values.get(name)
        if _is_count(value):
            return value
        self._note_field(name, "a whole number, 0 or more")
        return 0

    def text(self, name: str) -> str:
        """Return a text."""
        value = self._values.get(name)
        if isinstance(value, str):
            return value
        self._note_field(name, "a text")
        return ""

    def optional_number(self, name: str) -> float | None:
        """Return a number, or None where the field is null or misses."""
        return None if self.missing(name) else self.number(name)

    def optional_integer(self, name: str) -> int | None:
        """Return a whole number from 0 upwards, or None where the field is null or misses."""
        return None if self.missing(name) else self.integer(name)

    def counts(self, name: str, size: int) -> list[list[int]]:
        """Return a square table of ``size`` rows of whole numbers."""
        value = self._values.get(name)
        rows = value if isinstance(value, list) else []
        square = len(rows) == size and all(isinstance(row, list) and len(row) == size for row in rows)
        if square and all(_is_count(count) for row in rows for count in row):
            return rows
        self._note_field(name, f"{size} lists of {size} whole numbers")
        return []

    def fields(self, name: str) -> Fields:
        """Return the object inside; an empty one, with the problem noted, where there is none."""
        keys = (*self._keys, name)
        if name in self._values:
            return Fields(self._values[name], self._source, keys, self._problems)
        self._note_field(name, "a JSON object")
        inside = Fields({}, self._source, keys, self._problems)
        inside._known_broken = True
        return inside

    def objects(self, name: str) -> list[Fields]:
        """Return the objects of a list; none, with the problem noted, where there is no list."""
        value = self._values.get(name)
        if isinstance(value, list):
            keys = (*self._keys, name)
            return [Fields(each, self._source, (*keys, str(at)), self._problems) for at, each in enumerate(value)]
        self._note_field(name, "a list")
        return []

    def entries(self) -> Iterator[tuple[str, Fields]]:
        """Yield every key with the object that it holds."""
        for name in self._values:
            yield name, self.fields(name)

    def plain(self) -> dict[str, Any]:
        """Return the object as it was read."""
        return dict(self._values)

    def finish(self) -> None:
        """Raise what was noted.

        Raises:
            DataError: At least one field missed or held something else.
        """
        if self._problems:
            raise DataError(self._problems)

    def _note_field(self, name: str, expected: str) -> None:
        if self._known_broken:
            return  # said once for the object as a whole
        found = self._found(self._values[name]) if name in self._values else "nothing: the key is missing"
        self._note(found, expected, name)

    def _note(self, found: str, expected: str, *names: str) -> None:
        keys = ".".join((*self._keys, *names))
        self._problems.append(Problem(f"{self._source}: {keys}" if keys else self._source, found, expected))

    @staticmethod
    def _found(value: Any) -> str:
        return "null" if value is None else reprlib.repr(value)


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
