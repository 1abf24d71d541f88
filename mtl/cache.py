"""``python -m mtl.cache``: what is cached, how large and how old it is; and ``clear``, which removes it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from mtl.base import cli, schema
from mtl.base.errors import ConfigError, DataError, Problem, did_you_mean, printable

if TYPE_CHECKING:
    from rich.table import Table

    from mtl.activations.entries import Entry

USAGE = """
usage: python -m mtl.cache
       python -m mtl.cache clear [kind=KIND] [older=AGE]

  kind=KIND    activations, examples, tiny or pages (default: all of them)
  older=AGE    only what has not been used for so long: 90m, 12h, 30d, 8w

The cache is in $MTL_CACHE_DIR, by default ~/.cache/mtl. All of it can be removed at any time: it is made again when it
is needed. Activations that a running process uses are left there, and so is everything that mtl has not put there.
MTL_CACHE_LIMIT=20GB sets how large the activations may become (default: 10GB); 0 switches their cache off.
"""
_AGE: Final = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>[mhdw])", re.ASCII)
_SECONDS: Final = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_WIDTH: Final = 44
"""Columns for what an entry is, so that a table fits in 80."""


def _age(value: object) -> float | None:
    if value is None:
        return None
    match = _AGE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("an age with its unit: 90m, 12h, 30d, 8w")
    return float(match["number"]) * _SECONDS[match["unit"]]


@dataclass(config=schema.STRICT)
class Clear:
    """The arguments of ``clear``."""

    kind: Literal["activations", "examples", "tiny", "pages"] | None = None
    older: Annotated[float | None, BeforeValidator(_age)] = None


@dataclass(config=schema.STRICT)
class Show:
    """The arguments without a command: none."""


def main(arguments: Sequence[str]) -> None:
    """Show the cache, or clear it."""
    command, *rest = arguments or [""]
    if command == "clear":
        clear(cli.parse(Clear, rest, USAGE))
    elif command in ("", "-h", "--help"):
        cli.parse(Show, arguments, USAGE)
        show()
    else:
        expected = "clear, or no argument to see what is cached"
        raise ConfigError(Problem(command, "an unknown command", expected, did_you_mean(command, ["clear"])))


def show() -> None:
    """Print the kinds of entries, the sources of activations, and the paths that are not of mtl."""
    from mtl.activations import cache_limit
    from mtl.activations.entries import entries, unknown
    from mtl.activations.space import VARIABLE, size_text
    from mtl.base.files import cache_root
    from mtl.base.terminal import console

    limit = cache_limit()
    found = entries()
    out = console()
    out.print(f"cache {cache_root()}", markup=False, soft_wrap=True)
    if found:
        out.print(_kinds(found), "", sep="\n")
    activations = [entry for entry in found if entry.kind == "activations"]
    if activations:
        out.print(_sources(activations), "", sep="\n")
    taken = size_text(sum(entry.size for entry in activations))
    out.print(f"activations take {taken} of at most {size_text(limit)} ({VARIABLE})", markup=False, soft_wrap=True)
    for path in unknown():
        out.print(f"not of mtl, left alone: {path}", markup=False, soft_wrap=True)


def clear(options: Clear) -> None:
    """Remove what the options name, and print what is gone, and what is still there because it is in use."""
    from mtl.activations.entries import KINDS, entries, remove
    from mtl.activations.space import size_text

    removed: list[Entry] = []
    problems: list[Problem] = []
    for entry in entries(options.kind):
        if options.older is not None and time.time() - entry.used < options.older:
            continue
        try:
            if remove(entry):
                removed.append(entry)
            else:
                print(printable(f"in use, left there: {entry.path}"))
        except OSError as error:
            problems.append(Problem(str(entry.path), error.strerror or str(error), "files that may be removed"))
    for kind in KINDS if options.kind is None else [options.kind]:
        gone = [entry for entry in removed if entry.kind == kind]
        print(f"{kind}: {_counted(len(gone))} removed, {size_text(sum(entry.size for entry in gone))}")
    if problems:
        raise DataError(problems)


def _kinds(found: Sequence[Entry]) -> Table:
    from mtl.activations.space import size_text
    from mtl.base.formatting import count

    table = _table("kind", "entries", "rows", "size", "last used")
    for kind in dict.fromkeys(entry.kind for entry in found):
        these = [entry for entry in found if entry.kind == kind]
        rows = [entry.rows for entry in these if entry.rows is not None]
        size, used = size_text(sum(entry.size for entry in these)), max(entry.used for entry in these)
        table.add_row(kind, count(len(these)), count(sum(rows) if rows else None), size, age_text(time.time() - used))
    return table


def _sources(found: Iterable[Entry]) -> Table:
    from rich.text import Text

    from mtl.activations.space import size_text
    from mtl.base.formatting import count, one_line

    table = _table("activations", "rows", "size", "last used")
    table.columns[0].max_width = _WIDTH
    for entry in found:
        used = "now" if entry.is_used else age_text(time.time() - entry.used)
        table.add_row(Text(one_line(entry.what)), count(entry.rows), size_text(entry.size), used)
    return table


def _table(text: str, *figures: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(text, overflow="fold")
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def age_text(seconds: float) -> str:
    """Return how long ago something was, in the largest unit that fits: ``5 min ago``, ``3 h ago``, ``12 d ago``."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length):,} {unit} ago"
    return "just now"


def _counted(number: int) -> str:
    return f"{number:,} entr{'y' if number == 1 else 'ies'}"


if __name__ == "__main__":
    cli.run(main)
