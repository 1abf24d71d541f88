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
from mtl.base.memory import keep_few_kernels

_MOST_SHOWN = 200
T = TypeVar("T")
_KEY_VALUE = re.compile(r"(?P<key>[A-Za-z_][\w.]*)=(?P<value>.*)", re.DOTALL)
FAILED = 2  # the exit code of everything that a user can repair; the others are those of shells, 128 + the signal
INTERRUPTED = 130  # Ctrl-C
CUT_OFF = 141  # the reader of the output closed it
TERMINATED = 143  # SIGTERM
STANDARD = "-"  # standard input or output in the place of a file


class _PrintableRecord(logging.LogRecord):
    """A log record, of this program or a library, without control characters."""

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        return printable(super().getMessage())


def run(main: Callable[[Sequence[str]], None]) -> NoReturn:
    """Run a command line and exit: 0, 2 with the problems on stderr, 130 after Ctrl-C, or 143 after SIGTERM."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an ASCII terminal, half a surrogate pair
    logging.setLogRecordFactory(_PrintableRecord)
    keep_few_kernels()
    try:
        _run(main)
    finally:
        gc.freeze()  # otherwise Python collects garbage among all modules at exit: a second with torch loaded


def _run(main: Callable[[Sequence[str]], None]) -> NoReturn:
    try:
        _check_encoding(sys.argv[1:])
        main(sys.argv[1:])
    except MtlError as error:
        sys.stderr.write(f"{error}\n")  # in one call, so that the output of several processes does not mix
        sys.exit(FAILED)
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
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
    """Import torch and its dependencies without garbage collection, which takes a sixth of the time.

    Later collections skip the imported objects. Ctrl-C ends the block even if a library catches every exception of an
    import.
    """
    usual = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    listens = usual is signal.default_int_handler and in_main  # otherwise another handler is installed, or none can be
    heard = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        heard = True
        signal.default_int_handler(number, frame)

    gc.disable()
    if listens:
        signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        if listens:
            signal.signal(signal.SIGINT, usual)
        gc.enable()
        gc.freeze()
    if heard:
        raise KeyboardInterrupt


def _check_encoding(arguments: Sequence[str]) -> None:
    """Refuse arguments that are not UTF-8, such as file names in another encoding; Python reads them as surrogates."""
    broken = [text for text in arguments if any("\ud800" <= character <= "\udfff" for character in text)]
    if broken:
        repair = "rename the file or folder"
        raise ConfigError([Problem("arguments", repr(argument), "text in UTF-8", repair) for argument in broken])


def of_system(error: OSError) -> MtlError:
    """Return the error to show for an `OSError`: a full disk, a name that is too long, no permission."""
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
    """Build the options ``kind``, a pydantic dataclass, from ``key=value`` arguments; ``--help`` prints ``usage``.

    ``rest`` is the field for the arguments that are not ``key=value``, and all after ``--``; ``None`` refuses them.
    All problems raise a `ConfigError` together.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    before, behind = arguments[:end], arguments[end + 1 :]
    if {"-h", "--help"} & set(before):
        print(usage.strip())
        sys.exit(0)
    values, free, problems = _split(before, kind, rest)
    free += behind
    if rest is None:
        names = listed(f"{name}=…" for name in schema.keys(kind))
        problems += [Problem(argument, "no key=value", names) for argument in free]
    elif free:
        values[rest] = free
    options, invalid = schema.check(kind, values)
    if problems or options is None:
        raise ConfigError([*problems, *invalid])
    return options


def _split(arguments: Sequence[str], kind: Any, rest: str | None) -> tuple[dict[str, Any], list[str], list[Problem]]:
    """Return the values by key, the free arguments, and the problems of the others."""
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


def _value(text: str, *, takes_text: bool) -> Any:
    """Read a value: ``null``, a text where one is taken, else a number or a truth value if it is one."""
    if text == "null" or takes_text:
        return None if text == "null" else text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float) else text
