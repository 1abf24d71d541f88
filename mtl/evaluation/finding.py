"""Finding runs under folders: the finished ones, and jobs that left no figures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mtl.base.errors import DataError, Problem
from mtl.base.files import read_yaml

METRICS, CONFIG, LOG = "metrics.json", "config.yaml", "train.log"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A job folder without figures.

    Attributes:
        folder: Where it is.
        overrides: What its command line asked for, as far as it is known.
        reason: What its log says last; empty if it says nothing.
        failed: Whether the log tells of a failure; otherwise the job was stopped, or still runs.
    """

    folder: Path
    overrides: tuple[str, ...]
    reason: str
    failed: bool


def find(folders: Iterable[str | Path]) -> tuple[list[Path], list[Unfinished]]:
    """Return the run folders at or under ``folders``, each once, and the jobs that have not finished.

    A run has ``metrics.json`` and ``config.yaml``. A folder that only has ``.hydra``, ``config.yaml`` or ``train.log``
    is a job that has not finished. Nothing is looked for inside either.

    Args:
        folders: Run folders, multirun folders, or folders above them.

    Raises:
        DataError: Folders that do not exist (all named), or no run is there at all.
    """
    given = list(dict.fromkeys(Path(folder) for folder in folders))
    expected = "a run folder, the folder of a multirun, or one above them"
    missing = [Problem(str(folder), "no such folder", expected) for folder in given if not folder.is_dir()]
    if missing:
        raise DataError(missing)
    jobs = {job.resolve(): job for folder in given for job in _jobs(folder)}
    runs = [job for job in jobs.values() if _finished(job)]
    unfinished = [_unfinished(job) for job in jobs.values() if not _finished(job)]
    if not runs:
        found = f"{len(unfinished)} jobs, none of them finished" if unfinished else "no run"
        place = ", ".join(map(str, given))
        raise DataError(
            Problem(place, found, f"runs: folders with {METRICS} and {CONFIG}", "train first, then compare")
        )
    return runs, unfinished


def _jobs(folder: Path) -> Iterator[Path]:
    for path, names, files in os.walk(folder):
        names.sort(key=lambda name: (len(name), name))  # jobs are numbered: 2 before 10
        here = Path(path)
        is_sweep = "multirun.yaml" in files
        if _finished(here) or (not is_sweep and (".hydra" in names or CONFIG in files or LOG in files)):
            names.clear()
            yield here


def _finished(job: Path) -> bool:
    return (job / METRICS).is_file() and (job / CONFIG).is_file()


def _unfinished(job: Path) -> Unfinished:
    lines = _text(job / LOG).splitlines()
    mark = next((at for at, line in enumerate(lines) if "this job failed" in line or "Traceback" in line), None)
    told = [line.strip() for line in (lines if mark is None else lines[mark + 1 :]) if line.strip()]
    reason = " ".join(told[:4]) if mark is not None else (told[-1] if told else "")
    return Unfinished(job, _overrides(job), reason, failed=mark is not None)


def _overrides(job: Path) -> tuple[str, ...]:
    try:
        values = read_yaml(job / ".hydra" / "overrides.yaml")
    except (OSError, ValueError):
        return ()
    return tuple(map(str, values)) if isinstance(values, list) else ()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
