"""Studies: a sweep whose jobs belong together, that goes on where it was stopped and ends in a comparison.

``study.name=…`` makes a sweep (``-m``) a study. Its folder is ``outputs/studies/<name>-<checksum>``, the checksum that
of the arguments all jobs share and of the data, so that the same command finds it again and another one never touches
it. A job that is done is skipped; one that fails is noted and tried again the next time.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import mtl
from mtl.base.errors import ConfigError, MtlError, Problem, printable
from mtl.base.files import content_checksum
from mtl.base.run_folder import RECORD as RUN_RECORD
from mtl.base.run_folder import check, is_finished
from mtl.config.command_line import CommandLine
from mtl.config.fields import Config
from mtl.training.study_jobs import Job, JobRecord, jobs_of, read_record, seconds_left

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
    from mtl.training.inputs import data_files

    return [f"{path.absolute()} {content_checksum(path) if path.is_file() else ''}" for _, path in data_files(config)]


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _escaped(text: str) -> str:
    return text.replace("'", r"\'")
