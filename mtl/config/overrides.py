"""Arguments of a command line in Hydra's grammar: parse them, check them against the groups, write them for Hydra."""

from __future__ import annotations

import math
import numbers
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, OverrideType, Quote, QuotedString
from hydra.errors import HydraException

from mtl.base.errors import ConfigError, Problem, did_you_mean, listed
from mtl.base.files import CONF
from mtl.config.short_forms import takes_a_word

MOST_VALUES = 1000
"""Values of one swept key that are checked beforehand."""
Groups = Mapping[str, Sequence[str]]
"""The options of each configuration group."""
_PLAIN = re.compile(r"(?!(null|true|false|nan|inf)$)[a-z_][a-z0-9_]*", re.IGNORECASE)
_WORD = re.compile(r"(?!(null|true|false)$)[a-z_]\w*|'[a-z_]\w*'|\"[a-z_]\w*\"", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument that could be parsed.

    Attributes:
        line: As it was given.
        override: What Hydra makes of it.
        values: Its values as text: one, those of a sweep (of an interval both ends), or none if it deletes a key.
        groups: The options of each configuration group.
    """

    line: str
    override: Override
    values: tuple[str, ...]
    groups: Groups

    @property
    def key(self) -> str:
        """The key or the group."""
        return self.override.key_or_group

    @property
    def sweeps(self) -> bool:
        """Whether it stands for several jobs."""
        return self.override.is_sweep_override()

    @property
    def is_word_for_kind(self) -> bool:
        """Whether it gives the kind of one task's settings as a word, as in ``heads.sentiment=mlp``."""
        words = [value for value in self.values if _WORD.fullmatch(value)]
        return takes_a_word(self.key) and len(words) == len(self.values) > 0

    def forced(self, value: str | None = None) -> str:
        """Return it for Hydra: ``++`` before a plain key, so that keys that no file mentions can be given.

        Whether they exist is checked afterwards. Our groups need no ``+``, each has a choice already. Groups of the
        user and Hydra's own keys stay as they are. A word that stands for the kind (``heads.sentiment=mlp``) gets its
        full key, so that it can stand beside others (``heads.sentiment.dropout=0.2``), which would replace it.
        ``value`` is one value of a sweep, in place of all.
        """
        key, _, own = self.line.partition("=")
        if self.is_word_for_kind:
            key = f"{key}.kind"
        line = f"{key}={own if value is None else value}" if self.values else self.line
        if self.override.type is OverrideType.DEL:
            return line
        if isinstance(self.override.value(), Glob) and value is None:
            line = f"{self.key}={','.join(self.values)}"
        if (CONF / self.key).is_dir() and self.override.package is None:
            return line.lstrip("+")
        as_it_is = self.key in self.groups or "/" in self.key or self.key.split(".")[0] == "hydra"
        return line if as_it_is else f"++{line.lstrip('+')}"


def groups_in(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Return the options of each group in the folders; `base` files, from which others start, are none."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.glob("*/*.yaml"):
            found.setdefault(path.parent.name, set()).add(path.stem)
    found.pop("tune", None)  # search spaces, which python -m mtl.tune reads
    return {group: sorted(options - {"base"}) for group, options in sorted(found.items())}


def parse(lines: Sequence[str], groups: Groups) -> tuple[list[Argument], list[Problem]]:
    """Return the arguments that can be parsed, and what is wrong with the others."""
    found, problems = [], []
    for line in lines:
        try:
            override = _parsed(line)
        except (HydraException, ValueError) as error:  # a number of more than 4,300 digits
            problems.append(_unreadable(line, groups, str(error).splitlines()[0]))
            continue
        try:
            found.append(Argument(line, override, tuple(_values(override, groups)), groups))
        except (HydraException, ValueError) as error:  # a range with a step of 0
            value = f"{line.partition('=')[2]}: {error}"
            problems.append(Problem(override.key_or_group, value, "values to sweep over"))
    return found, problems


def _parsed(line: str) -> Override:
    override: Override = OverridesParser.create().parse_override(line)
    if not override.key_or_group:
        raise HydraException("no key before the =")
    return override


def _values(override: Override, groups: Groups) -> Iterator[str]:
    value: Any = override.value()  # Hydra's type forgets Glob
    if override.value_type is None:
        return
    if isinstance(value, Glob):
        yield from value.filter(list(groups.get(override.key_or_group, ())))
    elif isinstance(value, IntervalSweep):
        yield from (str(value.start), str(value.end))
    elif override.is_sweep_override():
        yield from (str(value) for value in islice(override.sweep_string_iterator(), MOST_VALUES))
    else:
        yield override.get_value_element_as_str()


def _unreadable(line: str, groups: Groups, message: str) -> Problem:
    key, equals, value = line.partition("=")
    if equals and key:
        quoted = _quoted(key, value)
        return Problem(key, f"{value}, which cannot be read: {message}", "a value", quoted and f"quote it: {quoted}")
    expected = "group=option or key=value"
    if equals:
        return Problem(line, "no key", expected)
    options = [f"{group}={option}" for group, names in groups.items() for option in names]
    meant = [option for option in options if line in (option.partition("=")[2], option.replace("=", "/"))]
    return Problem(line, "no value", expected, f"did you mean {meant[0]}?" if meant else f"give {line}=…")


def _quoted(key: str, value: str) -> str:
    """Return the argument to paste that gives the value as a text, empty if quotes do not help."""
    escaped = value.replace('"', r"\"")
    line = f'{key}="{escaped}"'
    try:
        return shlex.quote(line) if _parsed(line).value() == value else ""
    except HydraException:
        return ""


def problems_of(argument: Argument, multirun: bool) -> Iterator[Problem]:
    """Yield what is wrong with an argument by itself: a choice that its group does not have, a sweep that is none."""
    key, options = argument.key, argument.groups.get(argument.key)
    if options and argument.override.type is not OverrideType.DEL:
        for value in argument.values:
            plain = value.strip("'\"")
            if plain == "null":
                yield Problem(key, "null", listed(options, most=40), f"leave {key} out for its default")
            elif plain not in (*options, "base"):
                yield Problem(key, repr(plain), listed(options, most=40), did_you_mean(plain, options))
    found = argument.line.partition("=")[2]
    if argument.sweeps and not argument.values:
        yield Problem(key, f"{found}, which gives no value", "values to sweep over")
    elif argument.sweeps and not multirun:
        repair = "add -m for a sweep"
        if "," in found and "(" not in found and not options:
            repair += f"; for a text with a comma: {_quoted(key, found)}; for a list: {key}=[{found}]"
        yield Problem(key, found, "one value", repair)


def lines_of(settings: Mapping[str, Any], above: str = "") -> list[str]:
    """Return the arguments for settings with Python values.

    The settings have values by key or group: texts, paths, numbers, truth values, ``None``, lists of them, and mappings
    of the keys below, ``{"trainer": {"max_epochs": 5}}`` for ``trainer.max_epochs=5``; other values raise a
    `ConfigError`. ``above`` is their own key, with a dot at its end.
    """
    lines, problems = [], []
    for name, value in settings.items():
        key = f"{above}{name}"
        try:
            lines += lines_of(value, f"{key}.") if isinstance(value, Mapping) else [f"{key}={_written(value)}"]
        except TypeError as error:
            problems.append(Problem(key, str(error), "a text, a number, True, False, None, or a list of them"))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return lines


def _written(value: Any) -> str:
    """Return a value in Hydra's grammar; texts are quoted, unless they can be nothing else."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case numbers.Integral():
            return str(int(value))
        case numbers.Real() if math.isfinite(value):
            return repr(float(value))
        case str() | os.PathLike():
            text = os.fspath(value)
            return text if _PLAIN.fullmatch(text) else QuotedString(text, Quote.single).with_quotes()
        case list() | tuple():
            return f"[{','.join(map(_written, value))}]"
    raise TypeError(f"a value of type {type(value).__name__}")
