"""Parse, compose and check a command line before Hydra runs it: all jobs of a sweep, all problems at once.

Nothing here needs torch. `check_command_line` has three steps, `_parse`, `_first_job` and `_check_jobs`. Each collects
the problems in its result; wrong flags, which leave nothing to compose, raise at once.
"""

from __future__ import annotations

import shutil
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from hydra._internal.utils import get_args_parser
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import QuotedString
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from mtl.base import run_folder
from mtl.base.errors import ConfigError, Problem, did_you_mean, listed
from mtl.base.files import CONF, obstacle
from mtl.config import overrides
from mtl.config.checks import load
from mtl.config.composing import Source, compose
from mtl.config.fields import Config
from mtl.config.overrides import Argument, Groups
from mtl.config.own_files import code_problems, folder_problems
from mtl.config.short_forms import section, task_of

_SHOWS_ONLY = ("help", "hydra_help", "info", "shell_completion")
_PRIMARY = "train"
_NO_SWEEP = ("run", "cfg", "info", "shell_completion")


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A checked command line.

    Attributes:
        arguments: The arguments for Hydra, each ``key=value`` forced, so that it takes keys that no file mentions;
            whether they exist has been checked here.
        multirun: Whether it is a sweep.
        source: What is composed.
        fixed: The arguments of every job, forced as above.
        swept: The values of each swept key, in the order in which Hydra's sweeper multiplies them.
        first: The configuration of the only or the first job; None if the command line only shows something.
        folder: The folder of the run or sweep where the command line itself names it.
    """

    arguments: list[str]
    multirun: bool
    source: Source
    fixed: tuple[str, ...] = ()
    swept: Mapping[str, Sequence[str]] = field(default_factory=dict)
    first: Config | None = None
    folder: Path | None = None

    def job(self, values: Mapping[str, str]) -> tuple[Config, dict[str, str]]:
        """Return the configuration of the job with these values of the swept keys, and its choice in each group."""
        composed, choices = self.composed(values)
        return _checked(composed), choices

    def composed(self, values: Mapping[str, str]) -> tuple[DictConfig, dict[str, str]]:
        """Return as `job`, the configuration unchecked."""
        composed = compose([*self.fixed, *(f"{key}={value}" for key, value in values.items())], self.source)
        return composed, choices_in(composed["hydra"])

    def run(self) -> tuple[Path, dict[str, str]]:
        """Return the folder of the only job, made within `making_folders` if its name is new, and its choices."""
        composed, choices = self.composed({})
        return Path(composed["hydra"].run.dir).absolute(), choices


def check_command_line(arguments: Sequence[str]) -> CommandLine:
    """Parse the arguments, compose what they ask for, and check it; raise all problems of all jobs together.

    A sweep is checked along each swept key, the others at their first value.
    """
    flags = get_args_parser().parse_intermixed_args(list(arguments))  # flags and overrides in any order
    for flag in _NO_SWEEP:
        if flags.multirun and getattr(flags, flag):
            option = f"--{flag.replace('_', '-')}"
            raise ConfigError(Problem("-m", f"beside {option}", f"a sweep or {option}", "leave out -m"))
    if any(getattr(flags, flag, None) for flag in _SHOWS_ONLY):
        return CommandLine(list(arguments), multirun=False, source=Source((CONF,), _PRIMARY))
    parsed = _parse(flags)
    first, swept_in_files, problems = _first_job(parsed)
    configs, of_jobs = _check_jobs(parsed, first, swept_in_files)
    problems = [*parsed.problems, *problems, *of_jobs]
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    in_files = {argument.key for argument in swept_in_files}  # the sweeper must see one key, not one with ++ beside it
    lines = {
        argument.line: argument.line if argument.key in in_files else argument.forced() for argument in parsed.arguments
    }
    flags_only = [argument for argument in arguments if argument not in lines]
    return CommandLine(
        [*flags_only, *(lines[argument] for argument in arguments if argument in lines)],
        multirun=parsed.kind == "sweep",
        source=parsed.source,
        fixed=tuple(
            lines[argument.line]
            for argument in parsed.arguments
            if not argument.sweeps and argument.key not in in_files
        ),
        swept=_multiplied(swept_in_files, parsed.arguments),
        first=configs[0],
        folder=_named_folder(parsed.arguments, parsed.kind),
    )


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A command line before anything is composed: all arguments that could be read, and the valid ones of them."""

    kind: Literal["run", "sweep"]
    source: Source
    groups: Groups
    arguments: Sequence[Argument]
    valid: Sequence[Argument]
    problems: Sequence[Problem]


def _parse(flags: Namespace) -> _Parsed:
    source = _source(flags)
    groups = overrides.groups_in(source.folders)
    arguments, problems = overrides.parse(flags.overrides, groups)
    groups["freeze"] += _register_frozen_heads(arguments, groups["freeze"])
    invalid = [problem for argument in arguments for problem in overrides.problems_of(argument, flags.multirun)]
    wrong = {problem.place for problem in invalid}  # nothing can be said about keys below a wrong choice
    valid = [
        argument
        for argument in arguments
        if not any(argument.key == key or argument.key.startswith(f"{key}.") for key in wrong)
    ]
    return _Parsed("sweep" if flags.multirun else "run", source, groups, arguments, valid, [*problems, *invalid])


def _first_job(parsed: _Parsed) -> tuple[DictConfig | None, list[Argument], list[Problem]]:
    """Compose the first job, None if that fails (`_check_jobs` tells why), and check Hydra's own settings.

    Returned with it are the keys that a file sweeps (`hparams_search`) and the problems of the settings.
    """
    try:
        first = compose(next(_jobs(parsed.valid)), parsed.source)
    except ConfigError:
        return None, [], []
    settings = first["hydra"]
    swept, of_files = _swept_in_files(settings, parsed)
    problems = [*_run_folder_problems(settings, parsed.kind), *of_files]
    problems += [*_sweeper_problems(first, [*swept, *parsed.valid]), *_launcher_problems(settings)]
    if len(parsed.source.folders) > 1:
        problems += code_problems(settings)
    return first, swept, problems


def _check_jobs(
    parsed: _Parsed, first: DictConfig | None, swept_in_files: Sequence[Argument]
) -> tuple[list[Config], list[Problem]]:
    """Return the configurations of the valid jobs, and the problems of all jobs; each is composed once."""
    own = {argument.key for argument in parsed.valid}
    added = [argument for argument in swept_in_files if argument.key not in own]
    known = None if added else first  # the first job is composed already, unless a file sweeps other keys
    words = {f"{argument.key}.kind": argument.key for argument in parsed.valid if argument.is_word_for_kind}
    configs: list[Config] = []
    problems: list[Problem] = []
    for lines in _jobs([*added, *parsed.valid]):
        of_job: list[Problem] = []
        try:
            composed = known or compose(lines, parsed.source)
            known = None
            of_job += _beside_the_demo(lines, composed)
            configs.append(_checked(composed))
            of_job += _replaced_words(lines, parsed.source)
        except ConfigError as error:
            of_job += error.problems
        problems += [replace(problem, place=words.get(problem.place, problem.place)) for problem in of_job]
    return configs, problems


def _named_folder(given: Sequence[Argument], kind: str) -> Path | None:
    """Return the folder that an argument names in full; others are known only when Hydra makes them."""
    key = f"hydra.{kind}.dir"
    values: list[Any] = [argument.override.value() for argument in given if argument.key == key]
    text = str(values[-1].text if isinstance(values[-1], QuotedString) else values[-1]) if values else "${"
    return None if "${" in text else Path(text).absolute()


def choices_in(settings: DictConfig | HydraConf) -> dict[str, str]:
    """Return the choice in each configuration group of ours from Hydra's settings of a job."""
    choices = settings.runtime.choices.items()
    return {group: choice for group, choice in choices if "hydra" not in group and choice}


def _multiplied(in_files: Sequence[Argument], given: Sequence[Argument]) -> dict[str, Sequence[str]]:
    """Return the values of each swept key as Hydra's sweeper takes them: those of files first, unless replaced."""
    swept: dict[str, Sequence[str]] = {argument.key: argument.values for argument in in_files}
    for argument in given:
        if argument.key in swept:
            swept[argument.key] = argument.values  # also a single one
        elif argument.sweeps:
            swept[argument.forced().partition("=")[0]] = argument.values
    return swept


def _source(flags: Namespace) -> Source:
    problems = []
    if flags.config_path:
        repair = "--config-dir adds a folder of yours to conf/"
        problems.append(Problem("--config-path", flags.config_path, "this flag left out", repair))
    if flags.experimental_rerun:
        repair = "give the arguments in the run's .hydra/overrides.yaml"
        problems.append(Problem("--experimental-rerun", flags.experimental_rerun, "this flag left out", repair))
    folders = [CONF]
    if flags.config_dir is not None:
        own = Path(flags.config_dir).resolve()
        folders.append(own)
        problems += folder_problems(own, flags.config_dir)
    name = (flags.config_name or _PRIMARY).removesuffix(".yaml")
    names = sorted(path.stem for folder in folders for path in folder.glob("*.yaml"))
    if name not in names:
        problems.append(Problem("--config-name", repr(name), listed(names), did_you_mean(name, names)))
    if problems:
        raise ConfigError(problems)
    return Source(tuple(folders), name)


def _register_frozen_heads(given: Iterable[Argument], options: Sequence[str]) -> list[str]:
    """Give Hydra a file ``freeze/<task>_head`` for each task that is named so, and return the names of these files.

    Whether there is such a task is checked with the whole configuration.
    """
    values = [value.strip("'\"") for argument in given if argument.key == "freeze" for value in argument.values]
    names = [name for name in dict.fromkeys(values) if name not in options and name.endswith("_head")]
    own = [name for name in names if name.removesuffix("_head").isidentifier()]
    for name in own:
        content = {"defaults": ["base", "_self_"], "heads": [name.removesuffix("_head")]}
        ConfigStore.instance().store(name, content, group="freeze")
    return own


def _swept_in_files(settings: DictConfig, parsed: _Parsed) -> tuple[list[Argument], list[Problem]]:
    """Return the sweep of the chosen files (`hparams_search`), and what is wrong with it."""
    params: Mapping[str, Any] = OmegaConf.select(settings, "sweeper.params") or {}
    if params and parsed.kind == "run":
        repair = "add -m, or leave out what sweeps: hparams_search, or an experiment of several jobs"
        found = f"a sweep over {listed(params)}"
        return [], [Problem("hydra.sweeper.params", found, "-m with a sweep", repair)]
    return overrides.parse([f"{key}={value}" for key, value in params.items()], parsed.groups)


def _sweeper_problems(first: DictConfig, arguments: Iterable[Argument]) -> Iterator[Problem]:
    """Yield what the chosen sweeper cannot do."""
    sweeper = first.hydra.runtime.choices["hydra/sweeper"]
    if sweeper == "basic":
        for argument in arguments:
            if argument.override.is_interval_sweep():
                expected = "values, or range(first, last, step): Hydra's own sweeper takes no interval"
                repair = "python -m mtl.tune searches intervals: docs/tune.md"
                yield Problem(argument.key, argument.line.partition("=")[2], expected, repair)
    elif (name := OmegaConf.select(first, "study.name")) is not None:
        found = f"{sweeper}, in the study {name!r}, whose jobs are known beforehand"
        yield Problem("hydra/sweeper", found, "basic, Hydra's own", "leave out one of them; or use python -m mtl.tune")
    elif sweeper == "optuna" and (installed := version("optuna")).split(".")[0] not in ("1", "2"):
        found = f"optuna, whose plugin needs optuna 2, and {installed} is installed"
        repair = "python -m mtl.tune uses this version: docs/tune.md; or pip install 'optuna<3' in another environment"
        yield Problem("hydra/sweeper", found, "basic, or a sweeper that works here", repair)


def _launcher_problems(settings: DictConfig) -> Iterator[Problem]:
    """Yield what the chosen launcher cannot do here."""
    name = str(settings.runtime.choices["hydra/launcher"])
    if name == "submitit_slurm" and shutil.which("sbatch") is None:
        expected = "a machine from which jobs of SLURM are submitted"
        repair = "hydra/launcher=submitit_local or joblib runs the jobs on this machine"
        yield Problem("hydra/launcher", f"{name}, and there is no program sbatch", expected, repair)
    if not name.startswith("submitit_"):
        return
    for key in ("nodes", "tasks_per_node"):
        if (number := settings.launcher.get(key)) != 1:
            repair = "trainer.devices=N trains in N processes of a node; for several nodes see docs/speed.md"
            yield Problem(f"hydra.launcher.{key}", str(number), "1: every task would train a model", repair)


def _run_folder_problems(settings: DictConfig, kind: str) -> Iterator[Problem]:
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


def _beside_the_demo(lines: Sequence[str], composed: DictConfig) -> Iterator[Problem]:
    """Yield a problem for each task with files of the user that would join the shipped tasks, which nobody chose."""
    if any(line.lstrip("+").startswith("data=") for line in lines):
        return
    plain: Any = OmegaConf.to_container(composed)
    if plain["hydra"]["runtime"]["choices"].get("data") != "reviews" or plain.get("task"):
        return
    for name, task in section(plain, "data", "tasks").items():
        files = [section(task).get(key) for key in ("train", "val", "test", "path", "dataset")]
        own = [str(file) for file in files if file is not None and not str(file).startswith("bundled:")]
        if own:
            found = f"{listed(own)}, beside the demo data that conf/data/reviews.yaml gives by default"
            expected = "data=files for tasks of your own alone, or data=reviews to train them with the demo tasks"
            yield Problem(f"data.tasks.{name}", found, expected, "add data=files")


def _replaced_words(lines: Sequence[str], source: Source) -> Iterator[Problem]:
    """Yield a problem where single keys would silently replace the word by which a file gives a task's kind."""
    keys = {line: line.partition("=")[0].lstrip("+") for line in lines}
    below = {line: place for line, key in keys.items() if (place := task_of(key))}
    if not below:
        return
    files = compose([line for line in lines if line not in below], source)
    for place in dict.fromkeys(below.values()):
        word = OmegaConf.select(files, place)
        if isinstance(word, str) and f"{place}.kind" not in keys.values():
            found = f"keys below {place}, which a file gives as the word {word!r}: they would replace it"
            yield Problem(place, found, "the kind as a key beside them", f"add {place}.kind={word}")


def _jobs(arguments: Sequence[Argument]) -> Iterator[list[str]]:
    """Yield the arguments of each job to check: the first, and each other value of each swept key."""
    first = [argument.forced(argument.values[0] if argument.sweeps else None) for argument in arguments]
    yield first
    for at, argument in enumerate(arguments):
        for value in argument.values[1:] if argument.sweeps else ():
            yield [*first[:at], argument.forced(value), *first[at + 1 :]]


def _checked(composed: DictConfig) -> Config:
    return load(OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"]))
