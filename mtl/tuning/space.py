"""Search spaces: YAML files in ``conf/tune`` with a distribution for each key that is tuned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass
from yaml import YAMLError

from mtl.base import schema
from mtl.base.errors import ConfigError, Problem, did_you_mean, listed
from mtl.base.files import CONF, expanded
from mtl.base.schema import MOST, Count
from mtl.config.command_line import CommandLine, check_command_line
from mtl.config.overrides import lines_of

FOLDER = "tune"
_NOT_TUNED = ("seed", "task", "hydra", "study", "logger", "cache", "evaluation", "retention", "hparams_search")
"""Keys that do not make a model better, or that a study sets itself."""
Value = bool | int | float | str | None


@dataclass(config=schema.STRICT)
class FloatRange:
    """Real numbers from ``low`` to ``high``; with ``log`` uniform in their logarithm."""

    kind: Literal["float"]
    low: float
    high: float
    log: bool = False
    step: Annotated[float, Field(gt=0)] | None = None


@dataclass(config=schema.STRICT)
class IntRange:
    """Whole numbers from ``low`` to ``high``; with ``log`` uniform in their logarithm."""

    kind: Literal["int"]
    low: Annotated[int, Field(ge=-MOST, le=MOST)]
    high: Annotated[int, Field(ge=-MOST, le=MOST)]
    log: bool = False
    step: Count = 1


@dataclass(config=schema.STRICT)
class Choices:
    """Values without an order."""

    kind: Literal["categorical"]
    choices: Annotated[list[Value], Field(min_length=2)]


Distribution = FloatRange | IntRange | Choices
_ByKind = Annotated[Distribution, Field(discriminator="kind")]


def holds(distribution: Distribution, value: object) -> bool:
    """Whether a value is one of a distribution."""
    if isinstance(distribution, Choices):
        return any(type(choice) is type(value) and choice == value for choice in distribution.choices)
    kinds = (int,) if isinstance(distribution, IntRange) else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool) or not distribution.low <= value <= distribution.high:
        return False
    steps = 0.0 if distribution.step is None else (value - distribution.low) / distribution.step
    return abs(steps - round(steps)) < 1e-9


def _in_order(distribution: Any) -> Any:
    if isinstance(distribution, Choices):
        if len({repr(choice) for choice in distribution.choices}) < len(distribution.choices):
            raise ValueError("choices that all differ")
        return distribution
    if distribution.low >= distribution.high:
        raise ValueError("low below high")
    if distribution.log and distribution.low <= 0:
        raise ValueError("low above 0, which a logarithm needs")
    if distribution.log and distribution.step not in (None, 1):
        raise ValueError("step or log, not both")
    return distribution


@dataclass(config=schema.STRICT)
class _File:
    """The content of a file."""

    search: Annotated[dict[str, Annotated[_ByKind, AfterValidator(_in_order)]], Field(min_length=1)]
    arguments: Annotated[list[str], Field(max_length=100)]
    """Arguments of every trial, as for ``python -m mtl.train``; those of the command line replace them."""


@plain_dataclass(frozen=True)
class SearchSpace:
    """A checked search space."""

    name: str  # that of its file
    distributions: Mapping[str, Distribution]  # of each tuned key
    base: CommandLine  # without tuning
    command: CommandLine  # with the tuned keys as swept ones
    arguments: Sequence[str]  # of every trial
    start: Mapping[str, Value]  # the values of the tuned keys without tuning, as far as the space holds them

    def values(self, parameters: Mapping[str, Value]) -> dict[str, str]:
        """Return the values of a trial as `CommandLine.job` takes them."""
        written = [line.partition("=")[2] for line in lines_of({key: parameters[key] for key in self.distributions})]
        return dict(zip(self.command.swept, written, strict=True))


def read_space(name: str, arguments: Sequence[str]) -> SearchSpace:
    """Read a search space and check it together with the arguments: each end and each choice makes a valid run.

    It is a file in ``conf/tune``, or in ``tune`` of the folder of ``--config-dir``; or the path of a file. A key that
    the arguments, as for ``python -m mtl.train``, give is not tuned.

    Raises:
        ConfigError: All problems of the file and of the arguments together.
    """
    path = _find(name, arguments)
    keys = {argument.lstrip("+~").partition("=")[0] for argument in arguments if not argument.startswith("-")}
    search, of_file, problems = _read(path)
    shared = [line for line in of_file if line.lstrip("+~").partition("=")[0] not in keys]
    distributions = {key: value for key, value in search.items() if key not in keys}
    if not (distributions or problems):
        found = f"all of {listed(search)} given as arguments"
        problems.append(Problem(str(path), found, "a key that is left to tune", "leave one of them out"))
    every = [*shared, *arguments]
    try:
        base = check_command_line(every)
        start = {key: value for key, value in _values(base, distributions) if holds(distributions[key], value)}
        lines = [_swept(key, distribution, start) for key, distribution in distributions.items()]
        swept = check_command_line(["-m", *every, *lines]) if lines else base
    except ConfigError as error:
        problems += [_placed(problem, path, distributions) for problem in error.problems]
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return SearchSpace(path.stem, distributions, base, swept, every, start)


def _find(name: str, arguments: Sequence[str]) -> Path:
    own = get_args_parser().parse_intermixed_args(list(arguments)).config_dir
    folders = [CONF / FOLDER, *([] if own is None else [Path(own) / FOLDER])]
    files = {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}
    path = files.get(name) or expanded(name)
    if path.is_file():
        return path
    found = f"{name}: no such file" if name.endswith((".yaml", ".yml")) else repr(name)
    expected = f"{listed(files)}, a file in the folder {FOLDER} of --config-dir, or the path of a file"
    raise ConfigError(Problem("space", found, expected, did_you_mean(name, list(files))))


def _read(path: Path) -> tuple[dict[str, Distribution], list[str], list[Problem]]:
    """Return the valid distributions and the arguments of a file, and the problems of the others."""
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, UnicodeDecodeError, OmegaConfBaseException, YAMLError, RecursionError) as error:
        found = f"not readable: {' '.join(str(error).split())}"
        raise ConfigError(Problem(str(path), found, "a search space in YAML, as in conf/tune")) from None
    values = content if isinstance(content, dict) else {}
    whole = {"search": values.get("search"), "arguments": [], **values}
    _, problems = schema.check(_File, whole)
    searched = whole["search"] if isinstance(whole["search"], dict) else {}
    parts = {
        str(key): schema.check(_File, {"search": {key: value}, "arguments": []})[0] for key, value in searched.items()
    }
    problems += [
        Problem(f"search.{key}", "a key that is not tuned", "what is trained, and how", "leave it out")
        for key in parts
        if key.split(".")[0] in _NOT_TUNED
    ]
    given = schema.check(_File, {**whole, "search": {"x": {"kind": "categorical", "choices": [0, 1]}}})[0]
    search = {key: part.search[key] for key, part in parts.items() if part and key.split(".")[0] not in _NOT_TUNED}
    in_file = [replace(problem, place=f"{path}: {problem.place}") for problem in problems]
    return search, given.arguments if given else [], in_file


def _values(base: CommandLine, keys: Mapping[str, object]) -> Iterator[tuple[str, Any]]:
    """Yield the value that each key has without tuning; none for one that is not set."""
    config, choices = base.composed({})
    for key in keys:
        value = choices.get(key, OmegaConf.select(config, key, default=partial))
        if value is not partial:
            yield key, value


def _swept(key: str, distribution: Distribution, start: Mapping[str, Value]) -> str:
    ends: list[Value] = [start[key]] if key in start else []
    ends += distribution.choices if isinstance(distribution, Choices) else [distribution.low, distribution.high]
    distinct = {lines_of({key: end})[0].partition("=")[2]: None for end in ends}
    return f"{key}={','.join(distinct)}"


def _placed(problem: Problem, path: Path, keys: Mapping[str, object]) -> Problem:
    """Return a problem with its place in the file if it is that of a tuned key."""
    own = any(problem.place == key or problem.place.startswith(f"{key}.") for key in keys)
    return replace(problem, place=f"{path}: search.{problem.place}") if own else problem
