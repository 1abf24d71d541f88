"""The processes of a parallel training: started, in a sweep, killed, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mtl.evaluation.metrics_file import read_metrics
from tests.support.commands import call, outside
from tests.support.runs import data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PARALLEL = ["backbone=tiny", "trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true"]
PARALLEL += ["evaluation.figures=false", "evaluation.error_analysis=false", "retention.path=null"]
SECONDS = 120


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A training of two processes that goes on and on: the first, and the number of the other."""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("looks for processes in /proc")
    flags = [
        *data(tmp_path),
        *PARALLEL,
        "trainer.max_epochs=100000",
        "trainer.log_every_n_steps=1",
        "callbacks.keep_best=false",
    ]
    first = subprocess.Popen(
        [sys.executable, "-m", "mtl.train", *flags, "hydra.run.dir=run"],
        cwd=tmp_path,
        env=outside(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "run/logs/metrics.csv"
    try:
        until(lambda: first.poll() is not None or (log.is_file() and len(log.read_text().splitlines()) > 3))
        assert first.poll() is None
        (other,) = children(first.pid)
        yield first, other
    finally:
        first.kill()
        first.communicate()


def test_a_killed_process_ends_the_training(endless: tuple[subprocess.Popen[str], int]) -> None:
    first, other = endless
    os.kill(other, signal.SIGKILL)
    _, said = first.communicate(timeout=SECONDS)
    assert first.returncode == 2
    assert said.endswith(
        "Training: 1 problem\n"
        "  process 1 of 0 to 1\n"
        "      found:    it was ended by SIGKILL\n"
        "      expected: all processes at work up to the end of training\n"
        "      repair:   look for what ended it; the system does so where memory runs out: a smaller data.batch_size helps\n"
    )


@pytest.mark.slow
def test_the_others_end_with_the_first_process(endless: tuple[subprocess.Popen[str], int]) -> None:
    first, other = endless
    first.kill()
    until(lambda: not lives(other))


@pytest.mark.slow
def test_ctrl_c_ends_all_processes(endless: tuple[subprocess.Popen[str], int]) -> None:
    first, other = endless
    os.kill(other, signal.SIGINT)  # as a terminal sends it to both
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=SECONDS)
    assert (first.returncode, said.splitlines()[-1]) == (130, "interrupted")
    until(lambda: not lives(other))


@pytest.mark.slow
def test_a_stopped_training_is_resumed(endless: tuple[subprocess.Popen[str], int], tmp_path: Path) -> None:
    first, other = endless
    first.terminate()
    first.communicate(timeout=SECONDS)
    assert first.returncode == 143
    until(lambda: not lives(other))
    config = tmp_path / "run/config.yaml"
    steps = 2 * 10**3
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()
    del config, steps


@pytest.mark.slow
def test_a_sweep_does_not_start_again_in_the_other_process(tmp_path: Path) -> None:
    flags = [*data(tmp_path), *PARALLEL, "trainer.max_epochs=1", "hydra.sweep.dir=sweep"]
    done = call("mtl.train", "-m", "freeze=none,backbone", *flags, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()) == ["0", "1"]
    assert done.stdout.count("Launching") == 1
    assert not (tmp_path / "outputs").exists()
    for job in ("0", "1"):
        metrics = read_metrics(tmp_path / "sweep" / job / "metrics.json")
        assert metrics.tasks["classification"]["test"]["accuracy"] >= 0
