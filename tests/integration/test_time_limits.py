"""Jobs of a study that a launcher ends before they are done: put back into the queue, or started again by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.commands import outside
from tests.support.runs import data

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 1200
JOBS = ("seed-1", "seed-2")


def command(folder: Path, study: str, *more: str) -> list[str]:
    """Return a study of two trainings that take some seconds each."""
    quick = ["backbone=tiny", "trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=15", "logger=none"]
    quick += ["evaluation.figures=false", "evaluation.error_analysis=false", "retention.path=null"]
    sweep = ["-m", "study.name=s", "seed=1,2", f"hydra.sweep.dir={folder / study}"]
    return [sys.executable, "-m", "mtl.train", *sweep, *data(folder, train=60), *quick, *more]


def processes_of_jobs(pid: int) -> Iterator[int]:
    """Yield the processes below ``pid`` that do a job of submitit."""
    with suppress(FileNotFoundError, ProcessLookupError):  # one that ends meanwhile
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if b"submitit.core._submit" in Path(f"/proc/{child}/cmdline").read_bytes():
                yield int(child)
            yield from processes_of_jobs(int(child))


def open_files(pid: int) -> set[Path]:
    """Return the files that a process has open, without those that it closes meanwhile."""
    files = set()
    with suppress(FileNotFoundError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                files.add(link.readlink())
    return files


def end_each_once_it_trains(process: subprocess.Popen[str], folder: Path) -> None:
    """Send the signal of a time limit to both jobs when they have done an epoch."""
    waiting, end = set(JOBS), time.monotonic() + SECONDS
    while waiting:
        assert process.poll() is None, "it ended before all jobs were interrupted"
        assert time.monotonic() < end
        for pid in processes_of_jobs(process.pid):
            files = open_files(pid)
            for job in sorted(waiting):
                log = folder / job / "train.log"
                if log in files and "epoch 1/" in log.read_text():
                    os.kill(pid, signal.SIGUSR2)
                    waiting.discard(job)
        time.sleep(0.05)


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=folder, env=outside(), capture_output=True, text=True, check=False)


def figures(study: Path) -> list[dict[str, object]]:
    """Return the table in which a study ends, without times."""
    scenarios = json.loads((study / "comparison.json").read_text())["scenarios"]
    return [{name: row[name] for name in ("name", "seeds", "tasks")} for row in scenarios]


@pytest.mark.slow
@pytest.mark.parametrize("requeued", [True, False])
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes of jobs in /proc")
def test_a_study_whose_jobs_are_interrupted_ends_as_an_unbroken_one(requeued: bool, tmp_path: Path) -> None:
    unbroken = run(command(tmp_path, "unbroken"), tmp_path)
    assert unbroken.returncode == 0, unbroken.stderr
    # Submitit takes a signal in the last ten minutes of a job for that of its time limit, before that for preemption.
    limit = ["hydra.launcher.timeout_min=60"]
    if not requeued:
        limit = ["hydra.launcher.timeout_min=10", "+hydra.launcher.max_num_timeout=0"]
    launcher = ["hydra/launcher=submitit_local", *limit]
    arguments = command(tmp_path, "broken", *launcher)
    with subprocess.Popen(
        arguments, cwd=tmp_path, env=outside(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        end_each_once_it_trains(process, tmp_path / "broken")
        out, err = process.communicate(timeout=SECONDS)
    assert "Traceback" not in out + err
    if not requeued:
        assert process.returncode == 2
        assert "2 jobs of the study failed: seed-1, seed-2" in out, out[-1500:] + err[-1500:]
        logs = [(tmp_path / "broken" / job / "train.log").read_text() for job in JOBS]
        assert all("ended by SIGUSR2, and Job not requeued because: timed-out too many times" in log for log in logs)
        again = run(command(tmp_path, "broken"), tmp_path)
        assert again.returncode == 0, again.stderr
    else:
        assert process.returncode == 0, err
    for job in JOBS:
        log = (tmp_path / "broken" / job / "train.log").read_text()
        assert log.count("resuming ") == 1
        assert log.count("epoch 1/15") == 1
        weights = [tmp_path / study / job / "model" / "model.safetensors" for study in ("broken", "unbroken")]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    assert figures(tmp_path / "broken") == figures(tmp_path / "unbroken")
    done = run(command(tmp_path, "broken", *launcher), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 jobs, 2 of them done" in done.stdout
