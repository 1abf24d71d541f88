"""Compose and check a command line before Hydra runs it: every job of a sweep, all problems at once, without torch."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigTypeError, InterpolationToMissingValueError, OmegaConfBaseException
from yaml import YAMLError, safe_load

from mtl.base import run_folder
from mtl.base.errors import ConfigError, Problem, did_you_mean, listed
from mtl.base.files import CONF, obstacle
from mtl.config import overrides
from mtl.config.checks import load
from mtl.config.fields import Config
from mtl.config.overrides import Argument, Groups
from mtl.config.short_forms import task_of

Composed = Callable[[tuple[str, ...]], DictConfig]
"""Composes a job's arguments, with Hydra's own settings under ``hydra``; what it returns is not to be changed."""

_GLOBAL = "# @package _global_"
_PLUGINS = ("hydra._internal.core_plugins.", "hydra_plugins.")
_SHOWS_ONLY = ("help", "hydra_help", "version", "info", "shell_completion")


@dataclass(frozen=True, slots=True)
class Source:
    """What is composed: the folders to search, and the primary configuration."""

    folders: tuple[Path, ...]
    name: str


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A command line that holds.

    Attributes:
        arguments: The arguments for Hydra, each ``key=value`` forced, so that it takes keys that no file mentions;
            whether they exist has been checked here.
        multirun: Whether it is a sweep.
        fixed: The arguments of every job, forced as above.
        swept: The values of each swept key, in the order in which Hydra's sweeper multiplies them.
        source: What is composed.
        first: The configuration of the only or the first job.
        folder: The folder of the run or sweep where the command line itself names it.
    """

    arguments: list[str]
    multirun: bool
    fixed: tuple[str, ...] = field(default=(), compare=False)
    swept: Mapping[str, Sequence[str]] = field(default_factory=dict, compare=False)
    source: Source | None = field(default=None, compare=False)
    first: Config | None = field(default=None, compare=False)
    folder: Path | None = field(default=None, compare=False)

    def configuration(self, values: Mapping[str, str]) -> Config:
        """Return the configuration of the job with these values of the swept keys.

        Raises:
            ConfigError: It cannot be composed, or does not hold.
        """
        assert self.source is not None, "a command line that only shows something has no jobs"  # noqa: S101
        lines = [f"{key}={value}" for key, value in values.items()]
        return _checked(_compose([*self.fixed, *lines], self.source))


def check_command_line(arguments: Sequence[str], config_name: str = "train") -> CommandLine:
    """Compose what the arguments ask for and check it.

    A sweep is checked along each swept key, the others at their first value.

    Args:
        arguments: The arguments behind the program's name, as for ``hydra.main``.
        config_name: The primary configuration in ``conf/``.

    Raises:
        ConfigError: All problems of all jobs together.
    """
    parsed = get_args_parser().parse_intermixed_args(list(arguments))  # flags and overrides in any order
    if any(getattr(parsed, flag, None) for flag in _SHOWS_ONLY):
        return CommandLine(list(arguments), multirun=False)
    source = _source(parsed, config_name)
    groups = overrides.groups_in(source.folders)
    given, problems = overrides.parse(parsed.overrides, groups)
    groups["freeze"] += _frozen_heads(given, groups["freeze"])
    wrong = [(each.key, problem) for each in given for problem in overrides.problems_of(each, groups, parsed.multirun)]
    good = [each for each in given if not _is_below(each.key, [key for key, _ in wrong])]
    compose_job = lru_cache(maxsize=1)(lambda job: _compose(job, source))  # the first job is asked for twice
    swept, found = _swept_in_files(good, groups, compose_job, parsed.multirun)
    if len(source.folders) > 1:
        found += _code_problems(good, groups, compose_job)
    own = {each.key for each in good}
    jobs = _jobs([*(each for each in swept if each.key not in own), *good], groups)
    words = {f"{each.key}.kind": each.key for each in good if each.is_word_for_kind}
    configs, wrong_in_jobs = _checked_jobs(jobs, compose_job)
    of_jobs = [replace(each, place=words.get(each.place, each.place)) for each in wrong_in_jobs]
    problems += [*(problem for _, problem in wrong), *found, *of_jobs]
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    as_in_file = {each.key for each in swept}  # the sweeper must see one key, not one with ++ beside it
    lines = {each.line: each.line if each.key in as_in_file else overrides.forced(each, groups) for each in given}
    flags = [each for each in arguments if each not in lines]
    return CommandLine(
        [*flags, *(lines[each] for each in arguments if each in lines)],
        multirun=bool(parsed.multirun),
        fixed=tuple(overrides.forced(each, groups) for each in given if not each.sweeps and each.key not in as_in_file),
        swept=_multiplied(swept, given, groups),
        source=source,
        first=configs[0],
        folder=_named_folder(given, "sweep" if parsed.multirun else "run"),
    )


def _named_folder(given: Sequence[Argument], kind: str) -> Path | None:
    """Return the folder that an argument names in full; others are known only when Hydra makes them."""
    values: list[Any] = [each.override.value() for each in given if each.key == f"hydra.{kind}.dir"]
    text = str(values[-1].text if isinstance(values[-1], QuotedString) else values[-1]) if values else "${"
    return None if "${" in text else Path(text).absolute()


def _multiplied(in_files: Sequence[Argument], given: Sequence[Argument], groups: Groups) -> dict[str, Sequence[str]]:
    """Return the values of each swept key as Hydra's sweeper takes them.

    Those of files come first; arguments with the same key take their place.
    """
    found: dict[str, Sequence[str]] = {each.key: each.values for each in in_files}
    for each in given:
        key = overrides.forced(each, groups).partition("=")[0]
        if each.key in found:
            found[each.key] = each.values  # also a single one
        elif each.sweeps:
            found[key] = each.values
    return found


def _source(parsed: Namespace, config_name: str) -> Source:
    """Return what Hydra's flags choose."""
    problems = []
    if parsed.config_path:
        repair = "--config-dir adds a folder of yours to conf/"
        problems.append(Problem("--config-path", parsed.config_path, "this flag left out", repair))
    if parsed.experimental_rerun:
        repair = "give the arguments in the run's .hydra/overrides.yaml"
        problems.append(Problem("--experimental-rerun", parsed.experimental_rerun, "this flag left out", repair))
    folders = [CONF]
    if parsed.config_dir is not None:
        own = Path(parsed.config_dir).resolve()
        folders.append(own)
        problems += _own_folder_problems(own, parsed.config_dir)
    name = (parsed.config_name or config_name).removesuffix(".yaml")
    names = sorted(path.stem for folder in folders for path in folder.glob("*.yaml"))
    if name not in names:
        problems.append(Problem("--config-name", repr(name), listed(names), did_you_mean(name, names)))
    if problems:
        raise ConfigError(problems)
    return Source(tuple(folders), name)


def _own_folder_problems(folder: Path, given: str) -> Iterator[Problem]:
    if not folder.is_dir():
        found = "a file" if folder.exists() else f"there is no folder {folder}"
        yield Problem("--config-dir", f"{given}: {found}", "a folder with your own files, in groups as in conf/")
    for path in sorted(folder.rglob("*.yaml")):
        name = path.relative_to(folder)
        if (CONF / name).exists():
            yield Problem(str(path), f"a file that conf/ has too: conf/{name} would be taken", "a name of its own")
        try:
            path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            yield Problem(str(path), f"not readable: {error}", "a YAML file in UTF-8")
        else:
            yield from _settings_problems(path, name)


def _settings_problems(path: Path, name: Path) -> Iterator[Problem]:
    """Yield what is wrong with a file of the user's own before anything is composed of it."""
    text = path.read_text(encoding="utf-8")
    with suppress(YAMLError, RecursionError):  # composing says what is no YAML
        if _has_key(safe_load(text), "searchpath"):
            found = "a search path, which can import Python packages"
            yield Problem(f"{path}: searchpath", found, "one folder of your own", "give it with --config-dir")
    siblings = [each for each in (CONF / name.parent).glob("*.yaml") if name.parent != Path()]
    if siblings and all(_GLOBAL in each.read_text(encoding="utf-8") for each in siblings) and _GLOBAL not in text:
        found = f"no line `{_GLOBAL}`: its keys would stand below {name.parent}, where nothing reads them"
        yield Problem(str(path), found, f"that line, as in conf/{name.parent}", "put it before everything else")


def _has_key(content: Any, key: str) -> bool:
    """Tell whether a key stands anywhere in plain values, alone or at the end of a path of keys."""
    if isinstance(content, Mapping):
        return any(str(each).rpartition(".")[2] == key or _has_key(value, key) for each, value in content.items())
    return isinstance(content, list) and any(_has_key(each, key) for each in content)


def _code_problems(given: Sequence[Argument], groups: Groups, composed: Composed) -> Iterator[Problem]:
    """Yield what files of the user's own would have Hydra run: it calls whatever ``_target_`` names.

    They may choose folders, a launcher, a sweeper, and the parameters of these.
    """
    try:
        settings = composed(tuple(next(_jobs(given, groups))))["hydra"]
        usual = _compose([], Source((CONF,), "train"))["hydra"]
    except ConfigError:
        return  # reported with the jobs
    for key in ("callbacks", "job_logging", "hydra_logging"):
        if OmegaConf.to_container(settings[key]) != OmegaConf.to_container(usual[key]):
            found = "settings of your own, with which Hydra would call any Python function that they name"
            yield Problem(f"hydra.{key}", found, "those of conf/hydra", f"leave hydra.{key} out")
    for key in ("launcher", "sweeper"):
        plain: Any = OmegaConf.to_container(settings[key])
        target = str(plain.get("_target_"))
        if not target.startswith(_PLUGINS):
            yield Problem(
                f"hydra.{key}._target_", repr(target), f"a {key} of Hydra or of a plugin of it", "leave it out"
            )


def _frozen_heads(given: Iterable[Argument], options: Sequence[str]) -> list[str]:
    """Give Hydra a file ``freeze/<task>_head`` for each task that is named so, as conf/ has them for its own tasks.

    Whether there is such a task is checked with the whole configuration.

    Returns:
        The names of these files.
    """
    values = [value.strip("'\"") for argument in given if argument.key == "freeze" for value in argument.values]
    names = [name for name in dict.fromkeys(values) if name not in options and name.endswith("_head")]
    tasks = {name: name.removesuffix("_head") for name in names}
    own = {name: task for name, task in tasks.items() if task.isidentifier()}
    for name, task in own.items():
        ConfigStore.instance().store(name, {"defaults": ["base", "_self_"], "heads": [task]}, group="freeze")
    return list(own)


def _is_below(key: str, wrong: Iterable[str]) -> bool:
    """Tell whether a key belongs to a group whose choice is wrong, so that nothing can be said about it."""
    return any(key == group or key.startswith(f"{group}.") for group in wrong)


def _swept_in_files(
    given: Sequence[Argument], groups: Groups, composed: Composed, multirun: bool
) -> tuple[list[Argument], list[Problem]]:
    """Return the sweep of the chosen files (`hparams_search`), and what is wrong with it or with the run folder."""
    first = next(_jobs(given, groups))
    try:
        settings = composed(tuple(first))["hydra"]
    except ConfigError:
        return [], []  # reported with the jobs
    problems = list(_folder_problems(settings, "sweep" if multirun else "run"))
    params: Mapping[str, Any] = OmegaConf.select(settings, "sweeper.params") or {}
    if params and not multirun:
        found = f"a sweep over {listed(params)}"
        problems.append(
            Problem(
                "hydra.sweeper.params",
                found,
                "-m with a sweep",
                "add -m, or leave out what sweeps: hparams_search, or an experiment of several jobs",
            )
        )
        return [], problems
    swept, unreadable = overrides.parse([f"{key}={value}" for key, value in params.items()], groups)
    return swept, problems + unreadable


def _folder_problems(settings: DictConfig, kind: str) -> Iterator[Problem]:
    """Yield a problem if the run folder cannot be made; one that is known only within a run is passed over."""
    try:
        folder = Path(settings[kind].dir).absolute()
    except InterpolationToMissingValueError:
        return
    except OmegaConfBaseException as error:
        found = str(error).splitlines()[0]
        yield Problem(f"hydra.{kind}.dir", found, "a folder that can be made", f"give hydra.{kind}.dir=<folder>")
        return
    if reason := obstacle(folder):
        yield Problem(f"hydra.{kind}.dir", f"{folder}, and {reason}", "a folder that can be made")
        return
    jobs = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    for place in [folder] if kind == "run" else sorted(jobs):
        if reason := run_folder.problem_with(place):
            yield Problem(f"hydra.{kind}.dir", f"{place}, but {reason}", run_folder.FREE, "choose another folder")
    if run_folder.is_in_use(folder):
        yield Problem(f"hydra.{kind}.dir", f"{folder}, in use by another process", "a folder in which no other trains")


def _checked_jobs(jobs: Iterable[list[str]], composed: Composed) -> tuple[list[Config], list[Problem]]:
    """Return the configurations of the jobs that hold, and what is wrong with the others."""
    configs: list[Config] = []
    problems: list[Problem] = []
    for job in jobs:
        try:
            problems += _beside_the_demo(job, composed)
            configs.append(_checked(composed(tuple(job)).copy()))
            problems += _replaced_words(job, composed)
        except ConfigError as error:
            problems += error.problems
    return configs, problems


def _beside_the_demo(job: Sequence[str], composed: Composed) -> Iterator[Problem]:
    """Yield a problem for each task with files of the user, where it would join the shipped tasks that nobody chose."""
    if any(line.lstrip("+").startswith("data=") for line in job):
        return
    plain = OmegaConf.to_container(composed(tuple(job)))
    assert isinstance(plain, dict)  # noqa: S101 - narrows for mypy: a configuration has keys
    if plain["hydra"]["runtime"]["choices"].get("data") != "reviews" or plain.get("task"):
        return
    data = plain.get("data")
    tasks = data.get("tasks") if isinstance(data, dict) else None
    for name, task in tasks.items() if isinstance(tasks, dict) else ():
        files = [task.get(key) for key in ("train", "val", "test", "path")] if isinstance(task, dict) else []
        own = [str(file) for file in files if file is not None and not str(file).startswith("bundled:")]
        if own:
            found = f"{listed(own)}, beside the demo data that conf/data/reviews.yaml gives by default"
            expected = "data=files for tasks of your own alone, or data=reviews to train them with the demo tasks"
            yield Problem(f"data.tasks.{name}", found, expected, "add data=files")


def _replaced_words(job: Sequence[str], composed: Composed) -> Iterator[Problem]:
    """Yield a problem where a file gives the kind of a task's settings as a word and arguments give single keys.

    They would replace the word, and nobody would see it.
    """
    keys = {line: line.partition("=")[0].lstrip("+") for line in job}
    below = {line: task for line, key in keys.items() if (task := task_of(key))}
    if not below:
        return
    files = composed(tuple(line for line in job if line not in below))
    for task in dict.fromkeys(below.values()):
        word = OmegaConf.select(files, task)
        if isinstance(word, str) and f"{task}.kind" not in keys.values():
            found = f"keys below {task}, which a file gives as the word {word!r}: they would replace it"
            yield Problem(task, found, "the kind as a key beside them", f"add {task}.kind={word}")


def _jobs(given: Sequence[Argument], groups: Groups) -> Iterator[list[str]]:
    """Yield the arguments of each job to check: the first, and each other value of each swept key."""
    first = [overrides.forced(each, groups, each.values[0] if each.sweeps else None) for each in given]
    yield first
    for at, each in enumerate(given):
        for value in each.values[1:] if each.sweeps else ():
            yield [*first[:at], overrides.forced(each, groups, value), *first[at + 1 :]]


def compose_config(arguments: Sequence[str], folders: Sequence[Path] = (CONF,), config_name: str = "train") -> Config:
    """Compose a configuration as Hydra would, without running anything, and check it.

    Args:
        arguments: As on the command line.
        folders: Where to search: ``conf/``, then the user's own.
        config_name: The primary configuration.

    Raises:
        ConfigError: It cannot be composed, or does not hold.
    """
    return _checked(_compose(arguments, Source(tuple(folders), config_name)))


def _checked(composed: DictConfig) -> Config:
    with open_dict(composed):
        composed.pop("hydra")
    return load(composed)


def _compose(job: Sequence[str], source: Source) -> DictConfig:
    """Compose, with Hydra's own settings under ``hydra``."""
    places = [QuotedString(f"file://{folder}", Quote.single).with_quotes() for folder in source.folders[1:]]
    search = [f"hydra.searchpath=[{','.join(places)}]"] if places else []
    try:
        with initialize_config_dir(config_dir=str(source.folders[0]), version_base="1.3"):
            return compose(source.name, overrides=[*job, *search], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, YAMLError, AssertionError) as error:  # OmegaConf asserts, too
        raise ConfigError(_not_composed(error)) from None


def _not_composed(error: Exception) -> Problem:
    cause = error.__cause__
    if isinstance(cause, ConfigTypeError) and cause.full_key:
        found, expected = "a list", "keys with values"
        if cause.object_type is list:
            found, expected = expected, found
        return Problem(cause.full_key, found, expected)
    missing = getattr(error, "missing_cfg_file", None) or ""
    group, _, name = missing.rpartition("/")
    if group in ("hydra/launcher", "hydra/sweeper"):
        kind = group.partition("/")[2]
        plugin = name.removesuffix("_local").removesuffix("_slurm").replace("_", "-")  # submitit brings two
        repair = f"pip install hydra-{plugin}-{kind}, or leave it out"
        return Problem(group, f"{name!r}, which is not installed", f"basic, or a {kind} that is installed", repair)
    message = " ".join(str(error).split())
    return Problem("configuration", message, "what conf/ and the arguments can be composed of")
