"""Two processes that train the same runs one after the other: the one of the test, and one beside it.

As a program it is the other process: ``python -m tests.support.ranks <file of jobs>``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import torch
import torch.distributed as dist

from mtl.training import run
from mtl.training.parallel import Place
from tests.support import runs
from tests.support.commands import outside

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Jobs = dict[str, list[str]]
"""For each run folder its overrides."""
TWO = "trainer.devices=2"


def train_in_two(jobs: Mapping[Path, Sequence[str]], file: Path) -> None:
    """Train each job in this process and another one, without evaluating it.

    Args:
        jobs: For each run folder its overrides; both processes train with these batches.
        file: Where to write the jobs for the other process.
    """
    file.write_text(json.dumps({str(folder): list(overrides) for folder, overrides in jobs.items()}))
    command = [sys.executable, "-m", "tests.support.ranks", str(file)]
    other = subprocess.Popen(command, env=outside(), stderr=subprocess.PIPE, text=True)
    try:
        _follow_all(jobs, 0, file)
    except BaseException:
        other.kill()
        raise
    finally:
        _, said = other.communicate(timeout=60)
    assert other.returncode == 0, said


def unpickles_nothing() -> mock._patch[mock.Mock]:
    """Let nothing be unpickled that another process sends, in the block or the function: it could run code."""
    refusal = AssertionError("a process unpickles what another one sends")
    return mock.patch("torch.distributed.distributed_c10d._tensor_to_object", side_effect=refusal)


def _follow_all(jobs: Mapping[Path, Sequence[str]], rank: int, file: Path) -> None:
    for number, (folder, overrides) in enumerate(jobs.items()):

        def connect(_: torch.device, number: int = number) -> None:
            store = dist.FileStore(f"{file}.{number}", 2)  # type: ignore[attr-defined]
            dist.init_process_group("gloo", store=store, rank=rank, world_size=2)

        folder.mkdir(parents=True, exist_ok=True)
        with unpickles_nothing():
            run.follow(runs.config(*overrides, TWO), folder, Place(rank, 2), connect)


if __name__ == "__main__":
    found: Jobs = json.loads(Path(sys.argv[1]).read_text())
    _follow_all({Path(folder): overrides for folder, overrides in found.items()}, 1, Path(sys.argv[1]))
