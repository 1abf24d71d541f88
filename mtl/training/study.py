"""Studies: sweeps whose jobs belong together, that continue where they stopped and end in a comparison.

``study.name=…`` makes a sweep (``-m``) a study. Its folder is ``outputs/studies/<name>-<checksum>``, the checksum that
of the arguments all jobs share and of the data, so that the same command finds it again and another one never touches
it. A job that is done is skipped; one that fails is noted and tried again the next time.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import logging
import re
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from omegaconf import OmegaConf

import mtl
from mtl.base.errors import ConfigError, MtlError, Problem, printable
from mtl.base.files import content_checksum, write_json
from mtl.base.run_folder import RECORD as RUN_RECORD
from mtl.base.run_folder import check, is_finished
from mtl.config.command_line import CommandLine
from mtl.config.fields import Config

RECORD = "job.json"
_RESULT = "metrics.json"
_TELL_ALL = ("experiment", "scenario")  # keys whose value says enough
_UNUSUAL = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What a job leaves of itself in its folder.

    Attributes:
        status: How it ended.
        identity: A checksum of all that its figures depend on.
        seconds: How long it took, from its configuration to its report.
        error: What went wrong, empty if nothing did.
    """

    status: Literal["done", "failed"]
    identity: str
    seconds: float
    error: str = ""

    def write(self, folder: Path) -> None:
        """Write it into the job's folder, atomically."""
        write_json(folder / RECORD, asdict(self))


def read_record(folder: Path) -> JobRecord | None:
    """Return what the job in ``folder`` has left, or nothing if it has not ended, or left no figures though done."""
    try:
        values = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        record = JobRecord(values["status"], str(values["identity"]), float(values["seconds"]), str(values["error"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return None if record.status == "done" and not (folder / _RESULT).is_file() else record


@dataclass(frozen=True, slots=True)
class Job:
    """One job of a study.

    Attributes:
        name: What its folder is called.
        values: Its value of each swept key.
    """

    name: str
    values: Mapping[str, str]

    @property
    def scenario(self) -> tuple[tuple[str, str], ...]:
        """What it does, whatever its seed."""
        return tuple((key, value) for key, value in self.values.items() if key.lstrip("+") != "seed")


def jobs_of(swept: Mapping[str, Sequence[str]]) -> tuple[Job, ...]:
    """Return the jobs of a sweep in the order in which Hydra's sweeper starts them.

    Args:
        swept: The values of each swept key.
    """
    products = itertools.product(*swept.values())
    combinations = [dict(zip(swept, values, strict=True)) for values in products]
    return tuple(Job(job_name(values), values) for values in combinations)


def job_name(values: Mapping[str, str]) -> str:
    """Return the name of the folder of a job: ``backbone_frozen-seed-1``.

    Args:
        values: Its value of each swept key; names differ where these do.
    """
    plain = {key.lstrip("+"): value.strip("'\"") for key, value in values.items()}
    lasts = [key.rpartition(".")[2] for key in plain]
    order = sorted(plain, key=lambda key: (key not in _TELL_ALL, key == "seed"))  # the seed comes last
    parts = []
    for key in order:
        last = key.rpartition(".")[2]
        word = key if lasts.count(last) > 1 else last
        told = plain[key] if key in _TELL_ALL else f"{word}-{plain[key]}"
        parts.append(_as_file_name(told))
    return "-".join(parts) or "job"


def _as_file_name(text: str) -> str:
    """Return a text as part of a file's name; a checksum tells apart those that would look the same."""
    shown = _UNUSUAL.sub("_", text)[:60]
    return shown if shown == text else f"{shown}.{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def seconds_left(jobs: Sequence[Job], folder: Path, at: int) -> tuple[float, bool]:
    """Return how long the jobs from number ``at`` on will take, and whether each one's scenario has been timed.

    A job takes as long as those of the same scenario have taken, otherwise as the mean of all (cheap ones come first,
    so that this is too little).

    Args:
        jobs: The jobs in their order.
        folder: The folder of the study.
        at: The place of the first job that has not been done.
    """
    records = [read_record(folder / job.name) for job in jobs]
    known = [
        (job.scenario, record.seconds)
        for job, record in zip(jobs, records, strict=True)
        if record is not None and record.status == "done"
    ]
    usual = statistics.fmean(seconds for _, seconds in known) if known else 0.0
    left = [
        job.scenario
        for job, record in zip(jobs[at:], records[at:], strict=True)
        if record is None or record.status == "failed"
    ]
    alike = {scenario: [each for other, each in known if other == scenario] for scenario in left}
    return sum(statistics.fmean(alike[scenario] or [usual]) for scenario in left), all(alike.values())


def _name_of_hydra_job(overrides: Sequence[str], *keys: str) -> str:
    """Return `job_name` from the overrides that Hydra gives a job."""
    given = dict(each.partition("=")[::2] for each in overrides)
    values = {key.lstrip("+"): value for key, value in given.items()}
    return job_name({key: values[key] for key in keys})


OmegaConf.register_new_resolver("mtl.job_name", _name_of_hydra_job, replace=True)


log = logging.getLogger(__name__)

ROOT = Path("outputs") / "studies"
_DIR = "hydra.sweep.dir"
OLD = ".old-"
"""In the name of a run that another configuration has pushed aside."""


@dataclass(frozen=True)
class Study:
    """A study that is about to run.

    Attributes:
        folder: Where it lies.
        jobs: Its jobs, in their order.
    """

    folder: Path
    jobs: tuple[Job, ...]

    @property
    def arguments(self) -> list[str]:
        """What tells Hydra where the jobs lie."""
        keys = ", ".join(f'"{key.lstrip("+")}"' for key in self.jobs[0].values)
        subdir = f"hydra.sweep.subdir='${{mtl.job_name:${{hydra.overrides.task}},{keys}}}'"
        return [f"{_DIR}='{_escaped(str(self.folder))}'", subdir]

    def attend(self, folder: Path, config: Config, work: Callable[[bool], object]) -> None:
        """Do a job unless it is done, say how far the study is, and note how the job ended.

        Args:
            folder: The job's folder.
            config: The job's configuration.
            work: What the job does, from where it was broken off if it is told so. An error of any kind is noted in
                the job's folder and goes no further.
        """
        at = next(number for number, job in enumerate(self.jobs) if job.name == folder.name)
        place = f"job {at + 1} of {len(self.jobs)}: {folder.name}"
        known = read_record(folder)
        if known is not None and known.status == "done":
            log.info("%s is done already (%s)", place, _duration(known.seconds))
            return
        left, timed = seconds_left(self.jobs, self.folder, at)
        told = f" ({'about' if timed else 'more than'} {_duration(left)} left)" if left else ""
        log.info("\n%s%s\n", place, told)
        identity, started, error = identity_of(config), time.perf_counter(), ""
        try:
            work(_was_broken_off(folder, config))
        except MtlError as caught:
            error = str(caught)
            log.error("this job failed, the study goes on\n%s", error)
        except Exception as caught:  # noqa: BLE001 - whatever it is, the other jobs can still be done
            error = f"{type(caught).__name__}: {caught}"
            log.error("this job failed, the study goes on\n%s\n\n%s", error, traceback.format_exc())
        gc.collect()  # a failed job's network hangs on its traceback
        seconds = time.perf_counter() - started
        JobRecord("failed" if error else "done", identity, seconds, error).write(folder)

    def end(self) -> list[str]:
        """Compare the jobs, and those that the study has done before; print and write the comparison.

        Returns:
            The names of the jobs that are not done.

        Raises:
            DataError: None has left figures.
        """
        from mtl.comparison.comparing import compare
        from mtl.comparison.outputs import show, write

        own = [self.folder / job.name for job in self.jobs if (self.folder / job.name).is_dir()]
        comparison = compare([*own, *self._done_before()])
        write(self.folder, comparison)
        show(comparison)
        print(printable(f"page of the study: {self.folder / 'comparison.html'}"))
        return [job.name for job in self.jobs if not _done(self.folder / job.name)]

    def _done_before(self) -> list[Path]:
        """Return the folders of other jobs that are done, such as those of scenarios that this command leaves out."""
        names = {job.name for job in self.jobs}
        return [
            path
            for path in sorted(self.folder.iterdir())
            if path.is_dir() and path.name not in names and OLD not in path.name and _done(path)
        ]


def plan_study(command: CommandLine) -> Study | None:
    """Return the study that a command line asks for, its folder ready; None if it asks for none.

    Args:
        command: The command line, checked.

    Raises:
        MtlError: Its data cannot be read, it is no sweep, or its folder holds other jobs with the same names.
    """
    config = command.first
    if config is None or config.study.name is None:
        return None
    if not command.multirun or not command.swept:
        raise ConfigError(
            Problem("study.name", f"{config.study.name}, and no sweep", "several jobs", "add -m and keys with values")
        )
    from mtl.training.inputs import load_inputs  # torch comes only now, as in `mtl.train`

    jobs = jobs_of(command.swept)
    if not any(key.lstrip("+").split(".")[0] in ("data", "backbone", "model") for key in command.swept):
        load_inputs(config)  # what is wrong with it would fail every job
    given = [each.partition("=")[2].strip("'\"") for each in command.fixed if each.startswith(f"{_DIR}=")]
    study = Study(Path(given[-1]) if given else ROOT / f"{config.study.name}-{_checksum(command, config)}", jobs)
    for job in jobs:
        check(study.folder / job.name)
    _set_aside(study, command)
    done = sum(_done(study.folder / job.name) for job in jobs)
    print(printable(f"study {study.folder}: {len(jobs)} jobs, {done} of them done"))
    return study


def _set_aside(study: Study, command: CommandLine) -> None:
    """Rename the folders of jobs that were done under the same name with another configuration or other data."""
    for job in study.jobs:
        folder = study.folder / job.name
        known = read_record(folder)
        if known is not None and known.identity != identity_of(command.configuration(job.values)):
            old = folder.with_name(f"{job.name}{OLD}{known.identity[:6]}")
            if old.exists():
                raise ConfigError(Problem(str(old), "an older run in the way", "no such folder", f"remove {old}"))
            folder.rename(old)
            print(printable(f"{job.name} was done with another configuration, data or version: now {old.name}"))


def _was_broken_off(folder: Path, config: Config) -> bool:
    """Return whether this very run has begun in the folder and has not ended."""
    if not (folder / RUN_RECORD).is_file() or is_finished(folder):
        return False
    from mtl.training.again import read_config
    from mtl.training.inputs import absolute

    try:
        return read_config(folder) == absolute(config)
    except MtlError:
        return False


def _done(folder: Path) -> bool:
    known = read_record(folder)
    return known is not None and known.status == "done"


def _checksum(command: CommandLine, config: Config) -> str:
    shared = sorted(each for each in command.fixed if not each.startswith("hydra."))
    return _digest([*shared, *_data(config), mtl.__version__])[:6]


def identity_of(config: Config) -> str:
    """Return a checksum of all that the figures of a job depend on: configuration, content of the data, version."""
    from mtl.comparison.recipes import IDLE, without
    from mtl.training.inputs import absolute

    values = without(asdict(absolute(config)), IDLE)
    return _digest([json.dumps(values, sort_keys=True), *_data(config), mtl.__version__])


def _data(config: Config) -> list[str]:
    """Return path and checksum of each data file; one that cannot be read is told when its job begins."""
    from mtl.training.inputs import data_files, dataset_files

    paths = [*(path for _, path in data_files(config)), *dataset_files(config)]
    return [f"{path.absolute()} {content_checksum(path) if path.is_file() else ''}" for path in paths]


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _escaped(text: str) -> str:
    return text.replace("'", r"\'")
