"""The sentences of a command, from its arguments, standard input or a file; without torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from mtl.base.errors import ConfigError, DataError, Problem

STANDARD = "-"
"""Standard input or output in the place of a file."""


def sentences_of(file: str | None, text_column: str, sentences: list[str]) -> Sequence[str]:
    """Return the sentences of the arguments, of standard input, or of a file.

    Raises:
        DataError: The file, or standard input, cannot be used.
    """
    if file is None:
        return sentences
    if file == STANDARD:
        return _lines(sys.stdin.buffer)
    from mtl.data.examples import read_texts

    return read_texts(Path(file), text_column).texts


def _lines(stream: IO[bytes]) -> list[str]:
    """Return the lines of a stream that are not blank."""
    texts, problems = [], []
    for at, line in enumerate(stream, 1):
        try:
            texts.append(line.decode("utf-8-sig" if at == 1 else "utf-8").strip())
        except UnicodeDecodeError as error:
            problems.append(Problem(f"standard input:{at}", f"bytes that are no UTF-8: {error.reason}", "UTF-8"))
    if problems:
        raise DataError(problems)
    if not any(texts):
        raise DataError(Problem("standard input", "no sentence", "one sentence per line"))
    return [text for text in texts if text]


def check_sources(file: str | None, sentences: list[str]) -> None:
    """Check that there is exactly one source of sentences.

    Raises:
        ConfigError: There is none, or both, or a sentence is empty.
    """
    if (file is None) == (not sentences):
        found = "neither input= nor sentences" if file is None else "both input= and sentences"
        raise ConfigError(Problem("input", found, "a file or sentences", 'input=reviews.csv, or "a sentence"'))
    empty = [
        Problem(f"sentence {at}", repr(text), "a text") for at, text in enumerate(sentences, 1) if not text.strip()
    ]
    if empty:
        raise ConfigError(empty)
