"""Which reader reads which file, and what must hold of a file before it is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from mtl.base.errors import did_you_mean, listed
from mtl.data.delimited import read_delimited
from mtl.data.json_lines import read_json_lines
from mtl.data.lines import text_lines
from mtl.data.parquet import read_parquet
from mtl.data.problems import Columns, ProblemLog
from mtl.data.rows import Cell, Reader, Row

_CHECK_PATH = "check the path; a relative one starts at the working folder"


def read_sentences(path: Path, columns: Columns, log: ProblemLog) -> Iterator[Row]:
    """Yield the lines of a plain text file, one sentence each; blank lines are passed over.

    Args:
        path: The file.
        columns: Not used: the whole line is the text.
        log: Receives the problems.
    """
    del columns
    for line, content in enumerate(text_lines(path, log), start=1):
        text = content.rstrip("\r\n")
        if text.strip():
            yield line, text, Cell.MISSING


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

    Args:
        path: The file.
        readers: The readers to choose from, by suffix in lower case.

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
    folder = path.parent
    if not folder.is_dir():
        log.add(None, f"no folder {folder.resolve()}", "a file", _CHECK_PATH)
        return
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in readers)
    there = f"; {folder.resolve()} has {listed(names)}" if names else f" in {folder.resolve()}"
    by_stem = {Path(name).stem: name for name in names}
    stem = did_you_mean(path.stem, list(by_stem)).removeprefix("did you mean ").removesuffix("?")
    log.add(None, f"no such file{there}", "a file", f"did you mean {by_stem[stem]}?" if stem else _CHECK_PATH)
