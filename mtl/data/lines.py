"""The lines of a UTF-8 text file, with the place of each byte that should not be there."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from mtl.data.problems import ProblemLog

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def text_lines(path: Path, log: ProblemLog) -> Iterator[str]:
    r"""Yield the lines of a file with their ends as they are, as `open` with ``newline=""`` does.

    A byte order mark is left out. Bytes that are not UTF-8 and NUL bytes are noted once each, at the first place, and
    replaced by U+FFFD, so that the other problems of the file can be found too.

    Args:
        path: A text file; ``\n``, ``\r\n`` and ``\r`` end a line.
        log: Receives the problems.
    """
    offset = 0
    number = 1
    damage = _Damage(path, log)
    with path.open("rb") as file:
        for raw in file:
            if offset == 0 and raw.startswith(_UTF16_MARKS):
                log.add(1, "UTF-16 text (by its byte order mark)", "UTF-8", _conversion(path, "UTF-16"))
                return
            text = damage.decoded(raw, number, offset)
            if offset == 0:
                text = text.removeprefix("\ufeff")
            lines = _split(text)
            yield from lines
            number += len(lines)
            offset += len(raw)


class _Damage:
    """Decodes lines and notes the first byte of each kind that a text file must not have."""

    def __init__(self, path: Path, log: ProblemLog) -> None:
        self._path = path
        self._log = log
        self._seen: set[str] = set()

    def decoded(self, raw: bytes, number: int, offset: int) -> str:
        if b"\0" in raw:
            at = raw.index(b"\0")
            self._note("NUL", f"a NUL byte at byte {offset + at}", _line_of(raw, at, number), "text without NUL bytes")
            raw = raw.replace(b"\0", "\ufffd".encode())
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            found = f"byte 0x{raw[error.start]:02X} at byte {offset + error.start}, which is not UTF-8"
            self._note("UTF-8", found, _line_of(raw, error.start, number), "UTF-8", _conversion(self._path, "LATIN1"))
            return raw.decode("utf-8", errors="replace")

    def _note(self, kind: str, found: str, line: int, expected: str, repair: str = "") -> None:
        if kind not in self._seen:
            self._seen.add(kind)
            repair = repair or "write the file again from its source: NUL bytes are the mark of a damaged file"
            self._log.add(line, found, expected, repair)


def _conversion(path: Path, encoding: str) -> str:
    name = path.name
    return f"convert the file, for example with `iconv -f {encoding} -t UTF-8 {name} > utf8_{name}`"


def _line_of(raw: bytes, at: int, number: int) -> int:
    """Return the line of the byte ``at`` in ``raw``, where a lone carriage return ends a line too."""
    return number + raw[:at].count(b"\r")


def _split(text: str) -> list[str]:
    returns = text.count("\r")
    if returns == 0 or (returns == 1 and text.endswith("\r\n")):
        return [text]
    return _LINE.findall(text)
