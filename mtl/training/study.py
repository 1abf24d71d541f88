"""Studies: sweeps that continue where they stopped and end in a comparison of their jobs.

``study.name=…`` makes a sweep (``-m``) a study. Its folder is ``outputs/studies/<name>-<checksum>`` with a checksum of
the arguments that all jobs share and of the data: the same command finds the folder again, and no other one changes it.
Completed jobs are skipped; failed ones are recorded and run again the next time.
"""

from __future__ import annotations

import gc
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import mtl
from mtl.base.errors import ConfigError, MtlError, Problem, listed, printable
from mtl.base.formatting import duration
from mtl.base.run_folder import check
from mtl.config.command_line import CommandLine
from mtl.config.fields import Config
from mtl.training.jobs import (
    JobRecord,
    data_checksums,
    digest,
    identity_of,
    jobs_of,
    read_record,
    score_in,
    seconds_left,
    was_interrupted,
)

log = logging.getLogger(__name__)

ROOT = Path("outputs") / "studies"
_DIR = "hydra.sweep.dir"
OLD = ".old-"
"""In the names of runs with an earlier configuration, which were renamed."""


@dataclass(frozen=True)
class Study:
    """A study that is about to run."""

    folder: Path
    jobs: Mapping[str, Mapping[str, str]]  # each job's values of the swept keys, by the name of its folder

    @property
    def arguments(self) -> list[str]:
        """The arguments that set the folders of the jobs in Hydra."""
        keys = ", ".join(f'"{key.lstrip("+")}"' for key in next(iter(self.jobs.values())))
        subdir = f"hydra.sweep.subdir='${{mtl.job_name:${{hydra.overrides.task}},{keys}}}'"
        folder = str(self.folder).replace("'", r"\'")
        return [f"{_DIR}='{folder}'", subdir]

    def attend(self, folder: Path, config: Config, run: Callable[..., object]) -> float | None:
        """Run a job unless it is completed, and record how it ended; return its validation score, None if it failed."""
        at = list(self.jobs).index(folder.name)
        place = f"job {at + 1} of {len(self.jobs)}: {folder.name}"
        known = read_record(folder)
        if known is not None and known.status == "done":
            log.info("%s is done already (%s)", place, duration(known.seconds))
            return score_in(folder)
        left, timed = seconds_left(self.jobs, self.folder, at)
        remaining = f" ({'about' if timed else 'more than'} {duration(left)} left)" if left else ""
        log.info("\n%s%s\n", place, remaining)
        identity, started, error = identity_of(config), time.perf_counter(), ""
        try:
            run(resume=was_interrupted(folder, config))
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
        """Compare all completed jobs of the study, if there are any, and return the names of those that are not.

        The comparison includes completed jobs in its folder that are not part of this command.
        """
        from mtl.comparison.comparing import compare
        from mtl.comparison.outputs import show, write

        own = [self.folder / name for name in self.jobs]
        missing = [path.name for path in own if not _done(path)]
        others = [path for path in sorted(self.folder.iterdir()) if path.is_dir() and path not in own]
        others = [path for path in others if OLD not in path.name and _done(path)]
        if others or len(missing) < len(own):
            comparison = compare([*(path for path in own if path.is_dir()), *others])
            write(self.folder, comparison)
            show(comparison)
            print(printable(f"page of the study: {self.folder / 'comparison.html'}"))
        return missing


def plan_study(command: CommandLine) -> Study | None:
    """Return the study of a command line, with its folder prepared; None if it is no study."""
    config = command.first
    if config is None or config.study.name is None:
        return None
    if not command.multirun or not command.swept:
        raise ConfigError(
            Problem("study.name", f"{config.study.name}, and no sweep", "several jobs", "add -m and keys with values")
        )
    from mtl.training.inputs import load_inputs  # torch comes only now, as in `mtl.train`

    repeated = {key: values for key, values in command.swept.items() if len(set(values)) < len(values)}
    if repeated:
        raise ConfigError([Problem(key, listed(values), "each value once") for key, values in repeated.items()])
    jobs = jobs_of(command.swept)
    if not any(key.lstrip("+").split(".")[0] in ("data", "backbone", "model") for key in command.swept):
        load_inputs(config)  # a problem would fail every job
    folders = [word.partition("=")[2].strip("'\"") for word in command.fixed if word.startswith(f"{_DIR}=")]
    study = Study(Path(folders[-1]) if folders else ROOT / f"{config.study.name}-{_checksum(command, config)}", jobs)
    for name in jobs:
        check(study.folder / name)
    for name, values in jobs.items():
        _set_aside(study.folder / name, values, command)
    done = sum(_done(study.folder / name) for name in jobs)
    print(printable(f"study {study.folder}: {len(jobs)} jobs, {done} of them done"))
    return study


def _set_aside(folder: Path, values: Mapping[str, str], command: CommandLine) -> None:
    """Rename the folder of a job that was completed with another configuration or other data."""
    known = read_record(folder)
    if known is not None and known.identity != identity_of(command.job(values)[0]):
        old = folder.with_name(f"{folder.name}{OLD}{known.identity[:6]}")
        if old.exists():
            raise ConfigError(Problem(str(old), "an older run in the way", "no such folder", f"remove {old}"))
        folder.rename(old)
        print(printable(f"{folder.name} was done with another configuration, data or version: now {old.name}"))


def _done(folder: Path) -> bool:
    known = read_record(folder)
    return known is not None and known.status == "done"


def _checksum(command: CommandLine, config: Config) -> str:
    shared = sorted(word for word in command.fixed if not word.lstrip("+").startswith(("hydra.", "hydra/")))
    return digest([*shared, *data_checksums(config), mtl.__version__])[:6]
