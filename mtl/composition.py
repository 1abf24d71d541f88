"""Composes and checks a command line before Hydra runs it: every job of a sweep, all problems at once, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from mtl.backbones import CONF
from mtl.config import Config, load
from mtl.errors import ConfigError, Problem, did_you_mean, listed

MOST_VALUES = 1000
"""Values of one swept key that are checked beforehand."""
_SHOWS_ONLY = ("help", "hydra_help", "version", "info", "shell_completion")


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A command line that holds.

    Attributes:
        arguments: The arguments for Hydra, each ``key=value`` forced, so that it takes keys that no file mentions;
            whether they exist has been checked here.
        multirun: Whether it is a sweep.
    """

    arguments: list[str]
    multirun: bool


def check_command_line(arguments: Sequence[str], config_name: str = "train") -> CommandLine:
    """Compose what the arguments ask for and check it.

    A sweep is checked along each swept key, the others at their first value.

    Args:
        arguments: The arguments behind the program's name, as for ``hydra.main``.
        config_name: The primary configuration in ``conf/``.

    Raises:
        ConfigError: All problems of all jobs together.
    """
    parsed = get_args_parser().parse_args(list(arguments))
    if any(getattr(parsed, flag, None) for flag in _SHOWS_ONLY):
        return CommandLine(list(arguments), multirun=False)
    folders = [CONF, *([Path(parsed.config_dir).resolve()] if parsed.config_dir else [])]
    overrides = _parse(parsed.overrides)
    wrong = {each.input_line: list(_group_problems(each, folders)) for each in overrides}
    problems = [problem for found in wrong.values() for problem in found]
    if not parsed.multirun:
        problems += [_unexpected_sweep(each) for each in overrides if each.is_sweep_override()]
    for job in _jobs([each for each in overrides if not wrong[each.input_line]], folders):
        problems += _problems_of(job, folders, parsed.config_name or config_name)
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    forced = {each.input_line: _forced(each, folders) for each in overrides}
    return CommandLine([forced.get(each, each) for each in arguments], bool(parsed.multirun))


def _parse(overrides: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create()
    found, problems = [], []
    for text in overrides:
        try:
            found.append(parser.parse_override(text))
        except HydraException as error:  # also what the lexer raises
            message = str(error).splitlines()[0]
            problems.append(Problem(text, message, "key=value", "quote special characters: 'key=\"a, b\"'"))
    if problems:
        raise ConfigError(problems)
    return found


def _group_problems(override: Override, folders: Sequence[Path]) -> Iterator[Problem]:
    """Yield a problem for each choice that a configuration group does not have."""
    group = override.key_or_group
    options = _options(group, folders)
    if not options or override.type not in (OverrideType.CHANGE, OverrideType.ADD):
        return
    for value in _values(override):
        if value not in (*options, "base", "null") and not (CONF / group / f"{value}.yaml").is_file():
            yield Problem(group, repr(value), listed(options, most=40), did_you_mean(value, options))


def _options(group: str, folders: Sequence[Path]) -> list[str]:
    found = {path.stem for folder in folders for path in (folder / group).glob("*.yaml")}
    return sorted(found - {"base"})


def _values(override: Override) -> list[str]:
    """Return the values of an override as text: one, or those of a sweep."""
    if not override.is_sweep_override():
        value = override.get_value_element_as_str()
        return [value.strip("'\"")]
    if override.is_interval_sweep():
        return [str(override.value().start)]  # type: ignore[union-attr]
    return [str(value) for value in islice(override.sweep_string_iterator(), MOST_VALUES)]


def _unexpected_sweep(override: Override) -> Problem:
    found = override.input_line.partition("=")[2]
    return Problem(override.key_or_group, found, "one value", "add -m for a sweep, or quote a text that has a comma")


def _jobs(overrides: Sequence[Override], folders: Sequence[Path]) -> Iterator[list[str]]:
    """Yield the overrides of each job to check."""
    choices = [_values(each) if each.is_sweep_override() else [None] for each in overrides]
    first = [_text(each, values[0], folders) for each, values in zip(overrides, choices, strict=True)]
    yield first
    for at, values in enumerate(choices):
        for value in values[1:]:
            yield [*first[:at], _text(overrides[at], value, folders), *first[at + 1 :]]


def _text(override: Override, value: str | None, folders: Sequence[Path]) -> str:
    text = _forced(override, folders)
    return text if value is None else f"{text.partition('=')[0]}={value}"


def _forced(override: Override, folders: Sequence[Path]) -> str:
    """Return the override with ``++`` before a plain key; groups and Hydra's own keys stay as they are."""
    text = override.input_line or ""
    key = override.key_or_group
    plain = override.type in (OverrideType.CHANGE, OverrideType.ADD) and not _options(key, folders)
    if not plain or "/" in key or "@" in text.partition("=")[0] or key.split(".")[0] == "hydra":
        return text
    return f"++{text.lstrip('+')}"


def _problems_of(job: list[str], folders: Sequence[Path], config_name: str) -> list[Problem]:
    try:
        compose_config(job, folders, config_name)
    except ConfigError as error:
        return list(error.problems)
    return []


def compose_config(overrides: Sequence[str], folders: Sequence[Path] = (CONF,), config_name: str = "train") -> Config:
    """Compose a configuration as Hydra would, without running anything, and check it.

    Args:
        overrides: As on the command line.
        folders: Where to search: ``conf/``, then the user's own.
        config_name: The primary configuration.

    Raises:
        ConfigError: It cannot be composed, or does not hold.
    """
    extra = [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in folders[1:])}]"] if folders[1:] else []
    try:
        with initialize_config_dir(config_dir=str(folders[0]), version_base="1.3"):
            composed: Any = compose(config_name, overrides=[*overrides, *extra])
    except (HydraException, OmegaConfBaseException) as error:
        message = " ".join(str(error).split())
        raise ConfigError(
            Problem("configuration", message, "what conf/ and the arguments can be composed of")
        ) from None
    return load(composed)
