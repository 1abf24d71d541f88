"""The jobs of a sweep, from the records in their folders: rows of the table in which it ends.

A sweep whose jobs belong together, which is continued and compared, is a study: `mtl.training.study`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtl.base.files import read_yaml
from mtl.base.run_folder import METRICS
from mtl.evaluation.run_metrics import read_metrics
from mtl.training.jobs import read_record

if TYPE_CHECKING:
    from mtl.evaluation.run_summary import JobRow


def jobs_in(sweep: Path, swept: Iterable[str]) -> list[JobRow]:
    """Return the jobs of a sweep from their folders, by number."""
    rows = []
    for path in sweep.rglob(".hydra/overrides.yaml"):
        number = int(read_yaml(path.with_name("hydra.yaml"))["hydra"]["job"]["num"])
        rows.append(job_row(number, read_yaml(path), swept, path.parents[1]))
    return sorted(rows, key=lambda row: row.number)


def job_row(number: int, arguments: Iterable[str], swept: Iterable[str], folder: Path) -> JobRow:
    """Return a job with its values of the swept keys, from the record in its folder."""
    from mtl.evaluation.run_summary import JobRow

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
        out.print(f"\ncompare  python -m mtl.compare {folder}\n", markup=False, soft_wrap=True)
    return [f"job {job.number} ({job.overrides})" for job in jobs if job.error]
