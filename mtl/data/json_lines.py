"""Reads JSON Lines files: one object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtl.base.errors import listed
from mtl.data.lines import text_lines
from mtl.data.problems import Columns, ProblemLog, add_missing, check_columns, shown
from mtl.data.rows import Cell, Row

_ONE_OBJECT = "one JSON object per line"


class _RepeatedKeys(dict[str, Any]):
    """A JSON object in which some keys stand more than once."""

    repeated: frozenset[str]


def read_json_lines(path: Path, columns: Columns, log: ProblemLog) -> Iterator[Row]:
    """Yield the rows of a JSON Lines file; blank lines are passed over.

    A key that the first object has not is a problem of the whole file and noted once; where labels are optional, the
    key of the label is one only if no object has it.

    Args:
        path: A file with one JSON object per line.
        columns: The keys to read; others are ignored.
        log: Receives the problems; a line that is no object is not yielded.
    """
    absent: set[str] | None = None
    required = replace(columns, label=None) if columns.label_optional else columns
    unlabelled: tuple[int, list[str]] | None = None  # the first object, until one has a label
    contents = ((line, text.strip()) for line, text in enumerate(text_lines(path, log), start=1))
    for place, (line, content) in enumerate(entry for entry in contents if entry[1]):
        item, reason = _parsed(content)
        if place == 0 and (command := _conversion(item, content)):
            repair = f"convert the file, for example with `{command} {path.name} > lines_{path.stem}.jsonl`"
            log.add(line, f"one JSON document over the whole file: {shown(content)}", _ONE_OBJECT, repair)
            return
        if not isinstance(item, dict):
            log.add(line, f"{reason or 'JSON that is no object'}: {shown(content)}", _ONE_OBJECT)
            continue
        if absent is None:
            absent = check_columns(list(item), required, log, line)
            unlabelled = (line, list(item)) if columns.label_optional else None
        else:
            _note_absent(item, required, absent, line, log)
        if columns.label in item:
            unlabelled = None
        yield _row(item, columns, line, log)
    if unlabelled is not None:
        line, keys = unlabelled
        add_missing(keys, columns, "label", log, line)


def _parsed(content: str) -> tuple[Any, str]:
    """Return the parsed value, or ``None`` and why there is none."""
    try:
        return json.loads(content, object_pairs_hook=_object), ""
    except json.JSONDecodeError as error:
        return None, f"invalid JSON ({error.msg}, column {error.colno})"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets thousands of levels deep
        return None, f"invalid JSON ({error})"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    item = dict(pairs)
    if len(item) == len(pairs):
        return item
    names = [name for name, _ in pairs]
    marked = _RepeatedKeys(item)
    marked.repeated = frozenset(name for name in item if names.count(name) > 1)
    return marked


def _conversion(item: Any, content: str) -> str:
    """Return the command that makes JSON Lines of a file whose first line opens a document over many lines."""
    if content == "{":
        return "jq -c ."
    opens_list = item is None and content.startswith("[")
    holds_objects = isinstance(item, list) and any(isinstance(element, dict) for element in item)
    return "jq -c '.[]'" if opens_list or holds_objects else ""


def _note_absent(item: dict[str, Any], columns: Columns, noted: set[str], line: int, log: ProblemLog) -> None:
    for name in columns.by_role.values():
        if name not in item and name not in noted:
            keys = listed(repr(key) for key in item) or "none"
            log.add(line, f"an object without {name!r} (keys: {keys})", f"the key {name!r}", "add the key")


def _row(item: dict[str, Any], columns: Columns, line: int, log: ProblemLog) -> Row:
    if isinstance(item, _RepeatedKeys):
        for name in item.repeated.intersection(columns.by_role.values()):
            log.add(line, f"the key {name!r} more than once", "once", "remove the others")
    label = Cell.MISSING if columns.label is None else item.get(columns.label, Cell.MISSING)
    extra = (item.get(name, Cell.MISSING) for name in columns.extra)
    return line, item.get(columns.text, Cell.MISSING), label, *extra
