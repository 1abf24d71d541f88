"""Processes that train the same runs one after the other: the one of the test, and others beside it.

As a program it is another process: ``python -m tests.support.ranks <file of jobs> <rank> <number>``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import torch.distributed as dist

from mtl.training import run
from mtl.training.ranks import Group, Process
from tests.support import runs
from tests.support.commands import outside

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def train_in_several(number: int, jobs: Mapping[Path, Sequence[str]], file: Path, *, resume: bool = False) -> None:
    """Train each job in this process and others, without evaluating it.

    Args:
        number: How many processes.
        jobs: For each run folder its overrides; all processes train with these batches.
        file: Where to write the jobs for the other processes.
        resume: Whether to resume the runs.
    """
    listed = {str(folder): list(overrides) for folder, overrides in jobs.items()}
    file.write_text(json.dumps({"jobs": listed, "resume": resume}))
    command = [sys.executable, "-m", "tests.support.ranks", str(file)]
    others = [
        subprocess.Popen([*command, str(rank), str(number)], env=outside(), stderr=subprocess.PIPE, text=True)
        for rank in range(1, number)
    ]
    try:
        _follow_all(jobs, 0, number, file, resume=resume)
    except BaseException:
        for other in others:
            other.kill()
        raise
    finally:
        errors = [other.communicate(timeout=600)[1] for other in others]
    assert not any(other.returncode for other in others), "\n".join(errors)


def unpickles_nothing() -> mock._patch[mock.Mock]:
    """Let nothing be unpickled that another process sends, in the block or the function: it could run code."""
    refusal = AssertionError("a process unpickles what another one sends")
    return mock.patch("torch.distributed.distributed_c10d._tensor_to_object", side_effect=refusal)


def _follow_all(jobs: Mapping[Path, Sequence[str]], rank: int, number: int, file: Path, *, resume: bool) -> None:
    variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(number)}
    for at, (folder, overrides) in enumerate(jobs.items()):
        group = Group(Process(rank, number, rank, number), dist.FileStore(f"{file}.{at}", number))  # type: ignore[attr-defined]
        folder.mkdir(parents=True, exist_ok=True)
        with unpickles_nothing(), mock.patch.dict(os.environ, variables):
            config = runs.config(*overrides, f"trainer.devices={number}")
            run.follow(config, folder, group if number > 1 else None, resume=resume)


if __name__ == "__main__":
    name, own_rank, size = sys.argv[1:]
    found = json.loads(Path(name).read_text())
    all_jobs = {Path(folder): overrides for folder, overrides in found["jobs"].items()}
    _follow_all(all_jobs, int(own_rank), int(size), Path(name), resume=found["resume"])
