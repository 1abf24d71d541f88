"""Sentences as they come: from the arguments, standard input or a file of a command, or any iterable; without torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO

from mtl.base.errors import ConfigError, DataError, ModelError, Problem

CHUNK = 16_384
"""Sentences that are tokenised, sorted by length and encoded together."""
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
            problems.append(Problem(f"standard input:{at}", f"bytes that are not UTF-8: {error.reason}", "UTF-8"))
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


def strings(texts: Iterable[str]) -> Iterable[str]:
    """Return texts as Python strings; those that are all in memory are checked here, others when they are read."""
    if hasattr(texts, "columns") or hasattr(texts, "column_names") or isinstance(texts, Mapping):  # not their names
        repair = "give one column: table['text']"
        raise DataError(Problem("texts", f"a whole {type(texts).__name__}", "an iterable of strings", repair))
    values = texts.to_pylist() if hasattr(texts, "to_pylist") else texts  # Arrow would yield scalars of its own
    if hasattr(values, "__len__"):
        values = list(values)
        check_strings(values)
    return values


def check_strings(sentences: Sequence[str], start: int = 0) -> None:
    """Refuse what is not a string; ``start`` sentences came before these.

    Raises:
        DataError: There is any; it names the first.
    """
    wrong = [at for at, sentence in enumerate(sentences) if not isinstance(sentence, str)]
    if wrong:
        first = sentences[wrong[0]]
        found = f"{first!r:.80} ({type(first).__name__})"
        more = f", and {len(wrong) - 1:,} more that are none" if len(wrong) > 1 else ""
        raise DataError(Problem(f"sentence {start + wrong[0] + 1}", f"{found}{more}", "a string"))


def chunks(texts: Iterable[str]) -> Iterator[tuple[list[str], str]]:
    """Yield texts `CHUNK` at a time, with the name of each chunk; a single one, which may be empty, has no name."""
    source, start = iter(texts), 0
    chunk = list(islice(source, CHUNK))
    while True:
        check_strings(chunk, start)
        following = list(islice(source, CHUNK))
        yield chunk, f"sentences {start + 1:,} to {start + len(chunk):,}" if start or following else ""
        start += len(chunk)
        if not following:
            return
        chunk = following


@contextmanager
def named_part(part: str) -> Iterator[None]:
    """Add to errors which chunk they are about, since sentences are numbered from the first of the chunk."""
    try:
        yield
    except ModelError as error:
        if not part:
            raise
        raise ModelError(replace(problem, place=f"{problem.place}, {part}") for problem in error.problems) from None
