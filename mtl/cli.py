"""What the command lines share: ``key=value`` arguments, and errors shown without a traceback."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import yaml

from mtl import schema
from mtl.errors import ConfigError, MtlError, Problem, did_you_mean, listed

T = TypeVar("T")
_KEY_VALUE = re.compile(r"(?P<key>[A-Za-z_][\w.]*)=(?P<value>.*)", re.DOTALL)
FAILED = 2
"""Exit code of everything that a user can mend."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""


def run(main: Callable[[Sequence[str]], None]) -> NoReturn:
    """Run a command line and exit: 0, 2 with the problems on stderr, or 130 after Ctrl-C.

    Args:
        main: Takes the arguments behind the program's name.
    """
    try:
        main(sys.argv[1:])
    except MtlError as error:
        print(error, file=sys.stderr)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)


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
    if {"-h", "--help"} & set(arguments):
        print(usage.strip())
        sys.exit(0)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    values, free, problems = _sorted_out(arguments, names, rest is not None)
    if rest is not None and free:
        values[rest] = free
    if rest is None:
        problems += [Problem(each, "no key=value", listed(f"{name}=…" for name in names)) for each in free]
    options, found = schema.check(kind, values)
    if problems or found or options is None:
        raise ConfigError([*problems, *found])
    return options


def _sorted_out(
    arguments: Sequence[str], names: list[str], sentences: bool
) -> tuple[dict[str, Any], list[str], list[Problem]]:
    """Return the values by key, the free arguments, and what is neither."""
    values: dict[str, Any] = {}
    free: list[str] = []
    problems: list[Problem] = []
    arguments, behind = _cut(arguments)
    for argument in arguments:
        match = _KEY_VALUE.fullmatch(argument)
        if match and match["key"] in names:
            values[match["key"]] = _scalar(match["value"])
        elif argument.startswith("-") and not argument.startswith("- "):
            problems.append(Problem(argument, "an unknown flag", listed([f"{name}=…" for name in names])))
        elif match and not (sentences and " " in argument):
            allowed = [name for name in names if name != "sentences"]
            problems.append(
                Problem(match["key"], "an unknown key", listed(allowed), did_you_mean(match["key"], allowed))
            )
        else:
            free.append(argument)
    return values, [*free, *behind], problems


def _cut(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return what stands before and behind ``--``."""
    arguments = list(arguments)
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _scalar(text: str) -> Any:
    """Read a value as YAML where that gives a number, a boolean or nothing, else as text."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, int | float | bool) or (value is None and text in ("null", "~")) else text
