"""Checks of single texts and labels, and the key by which equal texts are recognised."""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import blake2b

from mtl.data.problems import Columns, ProblemLog, shown
from mtl.data.readers import Cell, Row

ValidRow = tuple[str, str | None, int, *tuple[str, ...]]
"""Text, label, line, then the values of the extra columns."""

_LONGEST_LABEL = 1000
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def valid_rows(rows: Iterator[Row], columns: Columns, log: ProblemLog) -> Iterator[ValidRow]:
    """Yield text, label and line of the rows whose values are good; the log receives what is wrong with the others.

    Behind them come the values of the extra columns as text: they only name parts of the rows, so none is refused.

    A label that is not read is yielded as an empty text. Once there is a problem nothing is yielded any more, since the
    file as a whole is refused; the other rows are still checked. Rows that may have no label, and have none, are
    yielded with ``None`` and an empty text, unchecked.
    """
    text_column, label_column = columns.by_role["text"], columns.by_role.get("label", "")
    for line, row in rows:
        label = row.get(label_column, Cell.MISSING) if label_column else Cell.MISSING
        extra = [value_text(row.get(name)) for name in columns.extra]
        if columns.label_optional and is_missing(label):
            if not log:
                yield "", None, line, *extra
            continue
        good_text = checked_text(row.get(text_column, Cell.MISSING), line, log)
        good_label = checked_label(label, line, log)
        if not log and good_text is not None:
            yield good_text, good_label or "", line, *extra


def is_missing(label: object) -> bool:
    """Tell whether a row has no label: an empty cell, null, or no such key."""
    return label is None or label is Cell.MISSING or (isinstance(label, str) and not label.strip())


def value_text(value: object) -> str:
    """Return a value of an extra column as text: empty where there is none, in well-formed characters, without NUL."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = "\ufffd" if value is Cell.UNDECODABLE else str(value)
    return text if text.isascii() and "\0" not in text else _SURROGATE.sub("\ufffd", text.replace("\0", "\ufffd"))


def checked_text(value: object, line: int, log: ProblemLog) -> str | None:
    """Return the text as it is, or ``None`` with a problem in the log if it is none or empty."""
    return _checked(value, "text", "a text in quotes, not empty", "quote it, or remove the row", line, log)


def checked_label(value: object, line: int, log: ProblemLog) -> str | None:
    """Return the label as text, or ``None`` with a problem in the log if it is none or empty.

    Texts stay as they are; booleans become ``true`` and ``false``, integers their digits.
    """
    if isinstance(value, bool | int):
        return value_text(value)
    expected = "one label: a text, an integer, true or false"
    return _checked(value, "label", expected, "write it as text, or remove the row", line, log)


def _checked(value: object, role: str, expected: str, repair: str, line: int, log: ProblemLog) -> str | None:
    if isinstance(value, str):
        return value if _is_good(value, role, line, log) else None
    if value is Cell.UNDECODABLE:
        log.add(line, f"a {role} with bytes that are not UTF-8", "UTF-8", "write the file again as UTF-8")
    elif value is not Cell.MISSING:
        log.add(line, f"a {role} that is {_kind(value)}", expected, repair)
    return None


def text_key(text: str) -> bytes:
    """Return 8 bytes that are the same for texts which differ only in case and white space.

    It is a 64-bit BLAKE2b hash: among a million different texts two share one with a chance of about 3 in 10^8.
    """
    folded = " ".join(text.casefold().split())
    return blake2b(folded.encode(), digest_size=8).digest()


def _is_good(value: str, role: str, line: int, log: ProblemLog) -> bool:
    if not value.strip():
        found = f"a {role} of white space only ({shown(value)})" if value else f"an empty {role}"
        log.add(line, found, f"a {role} with at least one visible character", f"fill in the {role}, or remove the row")
    elif "\0" in value:
        log.add(line, f"a {role} with a NUL character: {shown(value)}", f"a {role} without NUL characters", "remove it")
    elif not value.isascii() and (half := _SURROGATE.search(value)):
        found = f"a {role} with half a surrogate pair (\\u{ord(half.group()):04x})"
        log.add(line, found, "whole characters", "write the character as UTF-8, or both halves of its escape")
    elif role == "label" and len(value) > _LONGEST_LABEL:
        found = f"a label of {len(value):,} characters: {shown(value)}"
        log.add(line, found, f"at most {_LONGEST_LABEL:,} characters", "name the column that holds the labels")
    else:
        return True
    return False


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return f"{names.get(type(value), type(value).__name__)} ({shown(value)})"
