"""Sentences as they come, in any iterable: checked and cut into chunks; without torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

from mtl.base.errors import DataError, ModelError, Problem

CHUNK = 16_384
"""Sentences that are tokenised, sorted by length and encoded together."""


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
    """Raise a `DataError` that names the first sentence that is not a string; ``start`` came before these."""
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
