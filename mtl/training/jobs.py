"""The jobs of a sweep: their names, their records, the table in which it ends, and whether one is done or unfinished.

A sweep whose jobs belong together, which is continued and compared, is a study: `mtl.training.study`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from omegaconf import OmegaConf

import mtl
from mtl.base.errors import MtlError
from mtl.base.files import content_checksum, not_pipe, read_yaml, write_json
from mtl.base.run_folder import METRICS, is_finished
from mtl.base.run_folder import RECORD as RUN_RECORD
from mtl.config.fields import Config
from mtl.evaluation.run_metrics import read_metrics, validation_score
from mtl.evaluation.run_summary import JobRow

RECORD = "job.json"
_WITHOUT_KEY = ("experiment", "scenario")  # keys whose value is a sufficient name
_UNUSUAL = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True, slots=True)
class JobRecord:
    """The record of a job in its folder."""

    status: Literal["done", "failed"]
    identity: str  # a checksum of everything that its scores depend on
    seconds: float  # from configuration to report
    error: str = ""

    def write(self, folder: Path) -> None:
        """Write the record into the job's folder, whole or not at all."""
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
    """Return the validation score of the run in a folder; None if it has none."""
    return validation_score(read_metrics(folder / METRICS).tasks)


def jobs_of(swept: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """Return each job's values of the swept keys by its name, in the order in which Hydra's sweeper starts them."""
    combinations = [dict(zip(swept, values, strict=True)) for values in itertools.product(*swept.values())]
    return {job_name(values): values for values in combinations}


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


def seconds_left(jobs: Mapping[str, Mapping[str, str]], folder: Path, at: int) -> tuple[float, bool]:
    """Return how long the jobs from index ``at`` on will take, and whether the scenario of each has been timed.

    A scenario is the values apart from the seed. The estimate is the mean of the completed jobs of the same scenario,
    otherwise of all completed jobs, which is too low because cheap jobs run first.
    """
    timed: dict[tuple[tuple[str, str], ...], list[float]] = {}
    left = []
    for number, (name, values) in enumerate(jobs.items()):
        record = read_record(folder / name)
        scenario = tuple((key, value) for key, value in values.items() if key.lstrip("+") != "seed")
        if record is not None and record.status == "done":
            timed.setdefault(scenario, []).append(record.seconds)
        elif number >= at:
            left.append(scenario)
    usual = statistics.fmean([seconds for alike in timed.values() for seconds in alike] or [0.0])
    seconds = sum(statistics.fmean(timed.get(scenario, [usual])) for scenario in left)
    return seconds, all(scenario in timed for scenario in left)


def _name_of_hydra_job(overrides: Sequence[str], *keys: str) -> str:
    """Return `job_name` from the overrides of a Hydra job."""
    pairs = (override.partition("=") for override in overrides)
    values = {key.lstrip("+"): value for key, _, value in pairs}
    return job_name({key: values[key] for key in keys})


OmegaConf.register_new_resolver("mtl.job_name", _name_of_hydra_job, replace=True)


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


def identity_of(config: Config) -> str:
    """Return a checksum of what the scores of a job depend on: configuration, data, version."""
    from mtl.comparison.recipes import IDLE, without
    from mtl.training.inputs import absolute

    values = without(asdict(absolute(config)), IDLE)
    return digest([json.dumps(values, sort_keys=True), *data_checksums(config), mtl.__version__])


def data_checksums(config: Config) -> list[str]:
    """Return path and checksum of each data file; the job reports unreadable ones when it starts."""
    from mtl.training.inputs import data_files, dataset_files

    paths = [*(path for _, path in data_files(config)), *dataset_files(config)]
    return [f"{path.absolute()} {content_checksum(path) if path.is_file() else ''}" for path in paths]


def digest(parts: Iterable[str]) -> str:
    """Return the SHA-256 of lines of text."""
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def jobs_in(sweep: Path, swept: Iterable[str]) -> list[JobRow]:
    """Return the jobs of a sweep from their folders, by number."""
    rows = []
    for path in sweep.rglob(".hydra/overrides.yaml"):
        number = int(read_yaml(path.with_name("hydra.yaml"))["hydra"]["job"]["num"])
        rows.append(job_row(number, read_yaml(path), swept, path.parents[1]))
    return sorted(rows, key=lambda row: row.number)


def job_row(number: int, arguments: Iterable[str], swept: Iterable[str], folder: Path) -> JobRow:
    """Return a job with its values of the swept keys, from the record in its folder."""
    keys = {key.lstrip("+") for key in swept}
    plain = [str(argument).lstrip("+") for argument in arguments]
    overrides = " ".join(argument for argument in plain if argument.partition("=")[0] in keys)
    record = read_record(folder)
    if record is None or record.error:
        return JobRow(number, overrides, folder, error=record.error if record else "it did not end: see its train.log")
    return JobRow(number, overrides, folder, read_metrics(folder / METRICS).tasks)


def end_of_sweep(jobs: Sequence[JobRow]) -> list[str]:
    """Print the scores of all jobs and how to compare them, and return the names of failed jobs."""
    if not jobs:
        return []
    from mtl.base.terminal import console
    from mtl.reporting.tables import jobs_table

    out = console()
    out.print(jobs_table(jobs))
    if sum(not job.error for job in jobs) > 1:
        folder = os.path.relpath(jobs[0].folder.parent)
        out.print(f"\ncompare  python -m mtl.compare {shlex.quote(folder)}\n", markup=False, soft_wrap=True)
    return [f"job {job.number} ({job.overrides})" for job in jobs if job.error]
