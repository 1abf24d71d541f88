"""Read CSV, TSV, JSON Lines and Parquet files row by row, each row with its line in the file."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from mtl.base.errors import did_you_mean, listed
from mtl.data.problems import Columns, ProblemLog, add_missing, check_columns, plural, shown

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LONGEST_LINE: Final = 2**26
"""Bytes that are read at once: far more than any text for an encoder, and few enough for the memory of any machine."""
_NO_TEXT: Final = "check what the file is: one of zeros, or with a quote that is never closed, has no ends of lines"
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def text_lines(path: Path, log: ProblemLog) -> Iterator[str]:
    r"""Yield the lines of a file with their ends as they are, as `open` with ``newline=""`` does.

    ``\n``, ``\r\n`` and ``\r`` end a line. A byte order mark is left out. Bytes that are not UTF-8 and NUL bytes are
    noted once each, at the first place, and replaced by U+FFFD, so that the other problems can be found too.
    """
    offset, number, noted = 0, 1, set[str]()
    with path.open("rb") as file:
        while raw := file.readline(_LONGEST_LINE + 1):
            if len(raw) > _LONGEST_LINE:
                log.add(number, f"a line of more than {_LONGEST_LINE:,} bytes", "lines of text", _NO_TEXT)
                return
            if offset == 0 and raw.startswith(_UTF16_MARKS):
                log.add(1, "UTF-16 text (by its byte order mark)", "UTF-8", _conversion(path, "UTF-16"))
                return
            text = raw.replace(b"\0", "\ufffd".encode()).decode(errors="replace")
            for at, found, expected, repair in _damage(raw, offset, path) if "\ufffd" in text else ():
                if expected not in noted:
                    noted.add(expected)
                    log.add(number + raw[:at].count(b"\r"), found, expected, repair)  # a lone one ends a line too
            lines = _split(text.removeprefix("\ufeff") if offset == 0 else text)
            yield from lines
            number += len(lines)
            offset += len(raw)


def _damage(raw: bytes, offset: int, path: Path) -> Iterator[tuple[int, str, str, str]]:
    """Yield the first NUL byte and the first that is not UTF-8: its place, found, expected and repair."""
    if (at := raw.find(b"\0")) >= 0:
        repair = "write the file again from its source: NUL bytes are the mark of a damaged file"
        yield at, f"a NUL byte at byte {offset + at}", "text without NUL bytes", repair
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        found = f"byte 0x{raw[error.start]:02X} at byte {offset + error.start}, which is not UTF-8"
        yield error.start, found, "UTF-8", _conversion(path, "LATIN1")


def _conversion(path: Path, encoding: str) -> str:
    return f"convert the file, for example with `iconv -f {encoding} -t UTF-8 {path.name} > utf8_{path.name}`"


def _split(text: str) -> list[str]:
    returns = text.count("\r")
    if returns == 0 or (returns == 1 and text.endswith("\r\n")):
        return [text]
    return _LINE.findall(text)


class Cell(Enum):
    """What stands for a value that a row has not."""

    MISSING = "missing"  # its absence has been noted, or is allowed
    UNDECODABLE = "undecodable"  # the bytes are not UTF-8


Row = tuple[int, Mapping[str, object]]
"""The line (1 is the first; of a Parquet file: the row) and the values of the columns by name."""

Reader = Callable[[Path, Columns, ProblemLog], Iterator[Row]]
"""Yields the rows of a file; problems go to the log, such as that of a row with a broken structure, not yielded.

Columns that are not asked for are ignored.
"""


_DELIMITERS: Final = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar"}


def read_delimited(path: Path, columns: Columns, log: ProblemLog, *, delimiter: str) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file with a header; blank lines are passed over."""
    with large_fields():
        reader = csv.reader(text_lines(path, log), delimiter=delimiter, strict=True)
        rows = _numbered(reader, log)
        line, header = next(rows, (1, None))
        if header is None or not _is_usable(header, columns, delimiter, line, log):
            return
        places = [(name, header.index(name)) for name in columns.names]
        for line, fields in rows:
            if fields is None:
                continue
            if len(fields) == len(header):
                yield line, {name: fields[at] for name, at in places}
            else:
                _add_wrong_count(line, fields, header, delimiter, log)


@contextmanager
def large_fields() -> Iterator[None]:
    """Raise the limit of the csv module, which is one for the whole process, while a file is read."""
    before = csv.field_size_limit(_LONGEST_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _numbered(reader: Any, log: ProblemLog) -> Iterator[tuple[int, list[str] | None]]:
    """Yield each row with the line in which it starts; ``None`` for a malformed one, after which reading continues."""
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            _add_malformed(start, reader.line_num, str(error), log)
            yield start, None
        else:
            if fields:
                yield start, fields


def _is_usable(header: list[str], columns: Columns, delimiter: str, line: int, log: ProblemLog) -> bool:
    """Note what is wrong with the header: columns that are missing, or another delimiter than the suffix tells."""
    others = [name for mark, name in _DELIMITERS.items() if mark != delimiter and mark in header[0]]
    if len(header) == 1 and others and header[0] not in columns.names:
        found = f"a header of one field that contains {others[0]}"
        expected = f"fields with {_DELIMITERS[delimiter]} between them"
        log.add(line, found, expected, "save the file with commas as .csv or with tabs as .tsv")
        return False
    return not check_columns(header, columns, log, line)


def _add_malformed(start: int, end: int, reason: str, log: ProblemLog) -> None:
    if reason == "unexpected end of data":
        found = f"a quoted field that is still open at the end of the file (line {end})"
        log.add(start, found, "a closing quote", 'close the quote, and write a quote within quotes as ""')
    elif "expected after" in reason:
        where = "" if end == start else f" in line {end}"
        expected = "a delimiter or the end of the line"
        log.add(start, f"text right after a closing quote{where}", expected, 'write a quote within quotes as ""')
    else:
        log.add(start, f"a malformed row ({reason})", "fields as RFC 4180 describes them")


def _add_wrong_count(line: int, fields: list[str], header: list[str], delimiter: str, log: ProblemLog) -> None:
    name = _DELIMITERS[delimiter]
    if len(fields) > len(header):
        repair = f"put a field that contains {name} in double quotes"
    else:
        repair = f"add the missing fields, empty ones too, with {name} between each two"
    expected = f"{plural(len(header), 'field')}, as in the header: {listed(header)}"
    log.add(line, plural(len(fields), "field"), expected, repair)


_ONE_OBJECT = "one JSON object per line"


class _RepeatedKeys(dict[str, Any]):
    """A JSON object in which some keys stand more than once."""

    repeated: frozenset[str]


def read_json_lines(path: Path, columns: Columns, log: ProblemLog) -> Iterator[Row]:
    """Yield the rows of a JSON Lines file; blank lines are passed over.

    A key that the first object has not is a problem of the whole file and noted once; where labels are optional, the
    key of the label is one only if no object has it.
    """
    required, absent = columns.required, None
    unlabelled: tuple[int, list[str]] | None = None  # the first object, until one has a label
    contents = ((line, text.strip()) for line, text in enumerate(text_lines(path, log), start=1))
    for place, (line, content) in enumerate(entry for entry in contents if entry[1]):
        item, reason = _parsed(content)
        if place == 0 and (command := _object_conversion(item, content)):
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
        if columns.by_role.get("label") in item:
            unlabelled = None
        if isinstance(item, _RepeatedKeys):
            for name in item.repeated.intersection(columns.by_role.values()):
                log.add(line, f"the key {name!r} more than once", "once", "remove the others")
        yield line, item
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
    marked = _RepeatedKeys(item)
    marked.repeated = frozenset(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    return marked


def _object_conversion(item: Any, content: str) -> str:
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


ARROW_ROWS = 1024
"""Rows of an Arrow batch that are Python objects at a time."""


def read_parquet(path: Path, columns: Columns, log: ProblemLog) -> Iterator[Row]:
    """Yield the rows of a Parquet file, its texts strings, its labels strings, integers or booleans."""
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if not check_columns(schema.names, columns, log, None) and has_types(schema, columns, log):
                yield from arrow_rows(file.iter_batches(ARROW_ROWS, columns=columns.names), columns)
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a column's name that is no UTF-8
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        log.add(None, f"a damaged Parquet file ({reason})", "a whole Parquet file", "write or download it again")


def has_types(schema: Any, columns: Columns, log: ProblemLog) -> bool:
    """Tell whether the columns of an Arrow schema can hold texts and labels; the log receives what is wrong."""
    allowed = {"text": (_is_text, "strings"), "label": (_is_label, "strings, integers or booleans")}
    good = True
    for role, name in columns.by_role.items():
        is_allowed, expected = allowed[role]
        kind = schema.field(name).type
        if not is_allowed(kind.value_type if pa.types.is_dictionary(kind) else kind):
            log.add(None, f"column {name!r} of type {kind}", expected, f"cast it, or set {columns.override(role)}")
            good = False
    return good


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_label(kind: Any) -> bool:
    return bool(_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def arrow_rows(batches: Iterable[Any], columns: Columns) -> Iterator[Row]:
    """Yield the rows of Arrow record batches or tables, numbered from 1."""
    names = columns.names
    values = (zip(*(_values(batch.column(name)) for name in names), strict=True) for batch in batches)
    for number, row in enumerate(chain.from_iterable(values), start=1):
        yield number, dict(zip(names, row, strict=True))


def _values(array: Any) -> list[object]:
    try:
        return list(array.to_pylist())
    except UnicodeDecodeError:  # Parquet does not check that its strings are UTF-8
        return [_value(cell) for cell in array]


def _value(cell: Any) -> object:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return Cell.UNDECODABLE


def read_sentences(path: Path, columns: Columns, log: ProblemLog) -> Iterator[Row]:
    """Yield the lines of a plain text file, one sentence each; blank lines are passed over."""
    column = columns.by_role["text"]
    for line, content in enumerate(text_lines(path, log), start=1):
        text = content.rstrip("\r\n")
        if text.strip():
            yield line, {column: text}


READERS: Final[Mapping[str, Reader]] = {
    ".csv": partial(read_delimited, delimiter=","),
    ".tsv": partial(read_delimited, delimiter="\t"),
    ".jsonl": read_json_lines,
    ".json": read_json_lines,
    ".parquet": read_parquet,
}
"""The formats of labelled examples, by suffix."""

TEXT_READERS: Final[Mapping[str, Reader]] = {**READERS, ".txt": read_sentences}
"""The formats of sentences without labels, by suffix."""


def reader_of(path: Path, readers: Mapping[str, Reader]) -> Reader:
    """Return the reader for the file, once it is clear that there is something to read.

    Raises:
        DataError: The file is missing, a folder, empty, or of an unknown format.
    """
    log = ProblemLog(path)
    suffix = path.suffix.lower()
    if not path.exists():
        _add_missing_file(path, readers, log)
    elif not path.is_file():
        inside = [entry.name for entry in sorted(path.iterdir()) if entry.suffix in readers] if path.is_dir() else []
        found = "a folder" if path.is_dir() else "neither a file nor a folder"
        log.add(None, found, "a file", f"name one of its files: {listed(inside)}" if inside else "name a file")
    elif suffix not in readers:
        found = f"a file with the suffix {suffix!r}" if suffix else "a file without a suffix"
        log.add(None, found, listed(readers), "convert the file, or rename it if it is in one of these formats")
    elif path.stat().st_size == 0:
        log.add(None, "an empty file (0 bytes)", "rows", "write it again, or name another file")
    log.raise_if_any()
    return readers[suffix]


def _add_missing_file(path: Path, readers: Mapping[str, Reader], log: ProblemLog) -> None:
    folder, check = path.parent, "check the path; a relative one starts at the working folder"
    if not folder.is_dir():
        log.add(None, f"no folder {folder.resolve()}", "a file", check)
        return
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in readers)
    there = f"; {folder.resolve()} has {listed(names)}" if names else f" in {folder.resolve()}"
    by_stem = {Path(name).stem: name for name in names}
    stem = did_you_mean(path.stem, list(by_stem)).removeprefix("did you mean ").removesuffix("?")
    log.add(None, f"no such file{there}", "a file", f"did you mean {by_stem[stem]}?" if stem else check)
