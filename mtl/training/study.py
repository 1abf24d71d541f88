"""Studies: sweeps that continue where they stopped and end in a comparison of their jobs.

``study.name=…`` makes a sweep (``-m``) a study. Its folder is ``outputs/studies/<name>-<checksum>`` with a checksum of
the arguments that all jobs share and of the data: the same command finds the folder again, and no other one changes it.
Completed jobs are skipped; failed ones are recorded and run again the next time.
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from omegaconf import OmegaConf

import mtl
from mtl.base.errors import ConfigError, MtlError, Problem, printable
from mtl.base.files import content_checksum, not_pipe, write_json
from mtl.base.run_folder import METRICS, check, is_finished
from mtl.base.run_folder import RECORD as RUN_RECORD
from mtl.config.command_line import CommandLine
from mtl.config.fields import Config
from mtl.evaluation.run_metrics import read_metrics, validation_score

RECORD = "job.json"
_WITHOUT_KEY = ("experiment", "scenario")  # keys whose value is a sufficient name
_UNUSUAL = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True, slots=True)
class JobRecord:
    """The record of a job in its folder.

    Attributes:
        status: How it ended.
        identity: A checksum of everything that its scores depend on.
        seconds: Its duration from configuration to report.
        error: The error message; empty if there is none.
    """

    status: Literal["done", "failed"]
    identity: str
    seconds: float
    error: str = ""

    def write(self, folder: Path) -> None:
        """Write the record into the job's folder atomically."""
        write_json(folder / RECORD, asdict(self))


def read_record(folder: Path) -> JobRecord | None:
    """Return the record of the job in a folder; None if it has not ended or its metrics are missing."""
    try:
        values = json.loads(not_pipe(folder / RECORD).read_text(encoding="utf-8"))
        record = JobRecord(values["status"], str(values["identity"]), float(values["seconds"]), str(values["error"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return None if record.status == "done" and not (folder / METRICS).is_file() else record


def score_in(folder: Path) -> float | None:
    """Return the validation score of the run in a folder; None if it has none.

    Raises:
        DataError: Its metrics are damaged.
    """
    return validation_score(read_metrics(folder / METRICS).tasks)


@dataclass(frozen=True, slots=True)
class Job:
    """One job of a study.

    Attributes:
        name: The name of its folder.
        values: Its value of each swept key.
    """

    name: str
    values: Mapping[str, str]

    @property
    def scenario(self) -> tuple[tuple[str, str], ...]:
        """Its values apart from the seed."""
        return tuple((key, value) for key, value in self.values.items() if key.lstrip("+") != "seed")


def jobs_of(swept: Mapping[str, Sequence[str]]) -> tuple[Job, ...]:
    """Return the jobs of a sweep in the order in which Hydra's sweeper starts them."""
    products = itertools.product(*swept.values())
    combinations = [dict(zip(swept, values, strict=True)) for values in products]
    return tuple(Job(job_name(values), values) for values in combinations)


def job_name(values: Mapping[str, str]) -> str:
    """Return the name of the folder of a job: ``backbone_frozen-seed-1``."""
    plain = {key.lstrip("+"): value.strip("'\"") for key, value in values.items()}
    lasts = [key.rpartition(".")[2] for key in plain]
    order = sorted(plain, key=lambda key: (key not in _WITHOUT_KEY, key == "seed"))  # the seed comes last
    parts = []
    for key in order:
        last = key.rpartition(".")[2]
        word = key if lasts.count(last) > 1 else last
        parts.append(_as_file_name(plain[key] if key in _WITHOUT_KEY else f"{word}-{plain[key]}"))
    return "-".join(parts) or "job"


def _as_file_name(text: str) -> str:
    """Return a text as part of a file name, with a checksum if characters were replaced."""
    shown = _UNUSUAL.sub("_", text)[:60]
    return shown if shown == text else f"{shown}.{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def seconds_left(jobs: Sequence[Job], folder: Path, at: int) -> tuple[float, bool]:
    """Return how long the jobs from index ``at`` on will take, and whether the scenario of each has been timed.

    The estimate is the mean of the completed jobs of the same scenario, otherwise of all completed jobs, which is too
    low because cheap jobs run first.
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
    alike = {scenario: [seconds for other, seconds in known if other == scenario] for scenario in left}
    return sum(statistics.fmean(alike[scenario] or [usual]) for scenario in left), all(alike.values())


def _name_of_hydra_job(overrides: Sequence[str], *keys: str) -> str:
    """Return `job_name` from the overrides of a Hydra job."""
    pairs = (override.partition("=") for override in overrides)
    values = {key.lstrip("+"): value for key, _, value in pairs}
    return job_name({key: values[key] for key in keys})


OmegaConf.register_new_resolver("mtl.job_name", _name_of_hydra_job, replace=True)


log = logging.getLogger(__name__)

ROOT = Path("outputs") / "studies"
_DIR = "hydra.sweep.dir"
OLD = ".old-"
"""In the names of runs with an earlier configuration, which were renamed."""


@dataclass(frozen=True)
class Study:
    """A study that is about to run.

    Attributes:
        folder: Its folder.
        jobs: Its jobs, in order.
    """

    folder: Path
    jobs: tuple[Job, ...]

    @property
    def arguments(self) -> list[str]:
        """The arguments that set the folders of the jobs in Hydra."""
        keys = ", ".join(f'"{key.lstrip("+")}"' for key in self.jobs[0].values)
        subdir = f"hydra.sweep.subdir='${{mtl.job_name:${{hydra.overrides.task}},{keys}}}'"
        folder = str(self.folder).replace("'", r"\'")
        return [f"{_DIR}='{folder}'", subdir]

    def attend(self, folder: Path, config: Config, work: Callable[[bool], object]) -> float | None:
        """Run a job unless it is completed, log the progress of the study, and record how the job ended.

        Returns:
            Its validation score; None if it failed.
        """
        at = next(number for number, job in enumerate(self.jobs) if job.name == folder.name)
        place = f"job {at + 1} of {len(self.jobs)}: {folder.name}"
        known = read_record(folder)
        if known is not None and known.status == "done":
            log.info("%s is done already (%s)", place, _duration(known.seconds))
            return score_in(folder)
        left, timed = seconds_left(self.jobs, self.folder, at)
        remaining = f" ({'about' if timed else 'more than'} {_duration(left)} left)" if left else ""
        log.info("\n%s%s\n", place, remaining)
        identity, started, error = identity_of(config), time.perf_counter(), ""
        try:
            work(was_interrupted(folder, config))
        except MtlError as caught:
            error = str(caught)
            log.error("this job failed, the study continues\n%s", error)
        except Exception as caught:  # noqa: BLE001 - the other jobs can still run
            error = f"{type(caught).__name__}: {caught}"
            log.error("this job failed, the study continues\n%s\n\n%s", error, traceback.format_exc())
        gc.collect()  # the traceback of a failed job keeps its network alive
        seconds = time.perf_counter() - started
        JobRecord("failed" if error else "done", identity, seconds, error).write(folder)
        return None if error else score_in(folder)

    def end(self) -> list[str]:
        """Compare all completed jobs of the study; print and write the comparison.

        Returns:
            The names of the jobs that are not completed.

        Raises:
            DataError: No job has metrics.
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
        """Return the folders of completed jobs that are not part of this command."""
        names = {job.name for job in self.jobs}
        return [
            path
            for path in sorted(self.folder.iterdir())
            if path.is_dir() and path.name not in names and OLD not in path.name and _done(path)
        ]


def plan_study(command: CommandLine) -> Study | None:
    """Return the study of a command line, with its folder prepared; None if it is no study.

    Raises:
        MtlError: The data cannot be read, the command is no sweep, or the folder holds other jobs of the same names.
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
        load_inputs(config)  # a problem would fail every job
    folders = [word.partition("=")[2].strip("'\"") for word in command.fixed if word.startswith(f"{_DIR}=")]
    study = Study(Path(folders[-1]) if folders else ROOT / f"{config.study.name}-{_checksum(command, config)}", jobs)
    for job in jobs:
        check(study.folder / job.name)
    _set_aside(study, command)
    done = sum(_done(study.folder / job.name) for job in jobs)
    print(printable(f"study {study.folder}: {len(jobs)} jobs, {done} of them done"))
    return study


def _set_aside(study: Study, command: CommandLine) -> None:
    """Rename the folders of jobs that were completed with another configuration or other data."""
    for job in study.jobs:
        folder = study.folder / job.name
        known = read_record(folder)
        if known is not None and known.identity != identity_of(command.configuration(job.values)):
            old = folder.with_name(f"{job.name}{OLD}{known.identity[:6]}")
            if old.exists():
                raise ConfigError(Problem(str(old), "an older run in the way", "no such folder", f"remove {old}"))
            folder.rename(old)
            print(printable(f"{job.name} was done with another configuration, data or version: now {old.name}"))


def was_interrupted(folder: Path, config: Config) -> bool:
    """Whether the folder holds this run, started and unfinished."""
    if not (folder / RUN_RECORD).is_file() or is_finished(folder):
        return False
    from mtl.training.inputs import absolute
    from mtl.training.reevaluate import read_config

    try:
        then = read_config(folder)
    except MtlError:
        return False
    devices, nodes = then.trainer.devices, then.trainer.num_nodes  # a launcher may have set them
    return then == absolute(replace(config, trainer=replace(config.trainer, devices=devices, num_nodes=nodes)))


def _done(folder: Path) -> bool:
    known = read_record(folder)
    return known is not None and known.status == "done"


def _checksum(command: CommandLine, config: Config) -> str:
    shared = sorted(word for word in command.fixed if not word.lstrip("+").startswith(("hydra.", "hydra/")))
    return _digest([*shared, *_data(config), mtl.__version__])[:6]


def identity_of(config: Config) -> str:
    """Return a checksum of what the scores of a job depend on: configuration, data, version."""
    from mtl.comparison.recipes import IDLE, without
    from mtl.training.inputs import absolute

    values = without(asdict(absolute(config)), IDLE)
    return _digest([json.dumps(values, sort_keys=True), *_data(config), mtl.__version__])


def _data(config: Config) -> list[str]:
    """Return path and checksum of each data file; the job reports unreadable ones when it starts."""
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
