"""What the commands share: ``key=value`` arguments, and errors shown without a traceback."""

from __future__ import annotations

import errno
import gc
import io
import json
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, TypeVar

from mtl.base import schema
from mtl.base.errors import ConfigError, MtlError, Problem, Terminated, did_you_mean, listed, printable

_MOST_SHOWN = 200
T = TypeVar("T")
_KEY_VALUE = re.compile(r"(?P<key>[A-Za-z_][\w.]*)=(?P<value>.*)", re.DOTALL)
FAILED = 2
"""Exit code of everything that a user can mend."""
CUT_OFF = 141
"""Exit code where the output was closed, as shells have it: 128 + SIGPIPE."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""
TERMINATED = 143
"""Exit code after SIGTERM: 128 + SIGTERM."""


class _PrintableRecord(logging.LogRecord):
    """What is logged, to the terminal or a file, by us or a library: without control characters."""

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        return printable(super().getMessage())


def run(main: Callable[[Sequence[str]], None]) -> NoReturn:
    """Run a command line and exit: 0, 2 with the problems on stderr, 130 after Ctrl-C, or 143 after SIGTERM.

    Args:
        main: Takes the arguments behind the program's name.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an ASCII terminal, half a surrogate pair
    logging.setLogRecordFactory(_PrintableRecord)
    try:
        _run(main)
    finally:
        gc.freeze()  # else Python looks for garbage among all modules before it ends: a second with torch loaded


def _run(main: Callable[[Sequence[str]], None]) -> NoReturn:
    try:
        _check_encoding(sys.argv[1:])
        main(sys.argv[1:])
    except MtlError as error:
        sys.stderr.write(f"{error}\n")  # whole, so that those of several processes do not mix
        sys.exit(FAILED)
    except BrokenPipeError:  # whoever read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(CUT_OFF)
    except OSError as error:
        print(of_system(error), file=sys.stderr)
        sys.exit(FAILED)
    except MemoryError as error:
        found = " ".join(str(error).split()) or "not enough memory"
        expected = "data and batches that fit into memory"
        print(MtlError(Problem("memory", found, expected, "split the file, or shorten its texts")), file=sys.stderr)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Terminated as stop:
        print(printable(stop), file=sys.stderr)
        sys.exit(TERMINATED)
    sys.exit(0)


@contextmanager
def large_imports() -> Iterator[None]:
    """Import torch and what comes with it without looking for garbage on the way, which takes a sixth of the time.

    What was imported stays, and later searches for garbage leave it out. Ctrl-C ends the block even where a library
    catches everything that an import of its own raises.
    """
    gc.disable()
    try:
        with _interrupts_heard():
            yield
    finally:
        gc.enable()
        gc.freeze()


@contextmanager
def _interrupts_heard() -> Iterator[None]:
    """Raise a `KeyboardInterrupt` of the block at its end if it was swallowed inside."""
    usual = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if usual is not signal.default_int_handler or not in_main:  # somebody else takes care of it, or nobody is to
        yield
        return
    heard = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        heard = True
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if heard:
        raise KeyboardInterrupt


def _check_encoding(arguments: Sequence[str]) -> None:
    """Refuse arguments that are not text, such as names of files in another encoding: every file here is UTF-8."""
    broken = [argument for argument in arguments if not argument.isascii() and not _is_text(argument)]
    if broken:
        repair = "rename the file or folder"
        raise ConfigError([Problem("arguments", repr(argument), "text in UTF-8", repair) for argument in broken])


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def of_system(error: OSError) -> MtlError:
    """Return the error for what the operating system refuses: a full disk, a name that is too long, no permission."""
    repairs = {
        errno.ENOSPC: "free some space; what is there already is whole",
        errno.ENAMETOOLONG: "give a shorter name",
        errno.EACCES: "check its permissions",
    }
    place = "the system" if error.filename is None else str(error.filename)
    place = place if len(place) <= _MOST_SHOWN else f"{place[:_MOST_SHOWN]}…"
    found = error.strerror or " ".join(str(error).split()) or type(error).__name__
    expected = "a file that can be read or written here"
    return MtlError(Problem(place, found, expected, repairs.get(error.errno or 0, "")))


def parse(kind: type[T], arguments: Sequence[str], usage: str, rest: str | None = None) -> T:
    """Build the options ``kind`` from ``key=value`` arguments.

    Args:
        kind: A pydantic dataclass; its fields are the keys.
        arguments: The arguments; ``--help`` prints ``usage`` and exits.
        usage: What ``--help`` prints.
        rest: The field that takes the arguments that are no ``key=value``, and all behind ``--``; ``None``: there are
            none.

    Raises:
        ConfigError: All problems together.
    """
    before, behind = _cut(arguments)
    if {"-h", "--help"} & set(before):
        print(usage.strip())
        sys.exit(0)
    values, free, problems = _sorted_out(before, kind, rest)
    free += behind
    if rest is not None and free:
        values[rest] = free
    if rest is None:
        names = listed(f"{name}=…" for name in schema.keys(kind))
        problems += [Problem(argument, "no key=value", names) for argument in free]
    options, found = schema.check(kind, values)
    if problems or found or options is None:
        raise ConfigError([*problems, *found])
    return options


def _sorted_out(
    arguments: Sequence[str], kind: Any, rest: str | None
) -> tuple[dict[str, Any], list[str], list[Problem]]:
    """Return the values by key, the free arguments, and what is neither."""
    names = [name for name in schema.keys(kind) if name != rest]
    hint = "" if rest is None else f"behind -- everything counts as {rest}"
    values: dict[str, Any] = {}
    free: list[str] = []
    problems: list[Problem] = []
    for argument in arguments:
        match = _KEY_VALUE.fullmatch(argument)
        if match and match["key"] in values:
            problems.append(Problem(match["key"], f"{argument}, a second value", "one value"))
        elif match and match["key"] in names:
            values[match["key"]] = _value(match["value"], takes_text=schema.takes_text(kind, match["key"]))
        elif argument.startswith("-") and not argument.startswith("- "):
            problems.append(Problem(argument, "an unknown flag", listed(f"{name}=…" for name in names), hint))
        elif match and (rest is None or " " not in argument):
            repair = did_you_mean(match["key"], names) or hint
            problems.append(Problem(match["key"], "an unknown key", listed(names), repair))
        else:
            free.append(argument)
    return values, free, problems


def _cut(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    arguments = list(arguments)
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _value(text: str, *, takes_text: bool) -> Any:
    """Read a value: ``null``, a text where one is taken, else a number or a truth value if it is one."""
    if text == "null" or takes_text:
        return None if text == "null" else text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float) else text
