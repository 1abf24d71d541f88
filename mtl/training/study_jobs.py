"""The jobs of a study: what their folders are called, which of them are done, and how long the others will take."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from omegaconf import OmegaConf

from mtl.base.files import write_json

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
