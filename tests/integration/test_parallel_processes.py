"""The processes of a parallel training: started, in a sweep, killed, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

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


@contextmanager
def training(folder: Path, epochs: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Begin a training of two processes in ``folder/run``: yields the first, and the number of the other."""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("looks for processes in /proc")
    first = subprocess.Popen(
        [sys.executable, "-m", "mtl.train", *flags(folder, epochs), "hydra.run.dir=run"],
        cwd=folder,
        env=outside(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = folder / "run/logs/metrics.csv"
    try:
        until(lambda: first.poll() is not None or (log.is_file() and len(log.read_text().splitlines()) > 3))
        assert first.poll() is None
        (other,) = children(first.pid)
        yield first, other
    finally:
        first.kill()
        first.communicate()


def flags(folder: Path, epochs: int) -> list[str]:
    quick = ["trainer.log_every_n_steps=1", "callbacks.keep_best=false", "data.batch_size=4"]
    return [*data(folder), *PARALLEL, *quick, f"trainer.max_epochs={epochs}"]


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A training that goes on and on."""
    with training(tmp_path, 100_000) as processes:
        yield processes


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
        "      repair:   find what ended it; the system does if memory runs out: then a smaller data.batch_size\n"
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
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    with training(tmp_path, 60) as (first, other):
        first.terminate()
        first.communicate(timeout=SECONDS)
        assert first.returncode == 143
        until(lambda: not lives(other))
    resumed = call("mtl.train", "resume=run", folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "behind step" in resumed.stdout
    unbroken = call("mtl.train", *flags(tmp_path, 60), "hydra.run.dir=unbroken", folder=tmp_path)
    assert unbroken.returncode == 0, unbroken.stderr
    for name in ("model.safetensors", "heads.safetensors"):
        one, other_one = (load_file(tmp_path / run / "model" / name) for run in ("run", "unbroken"))
        assert all(torch.equal(one[key], other_one[key]) for key in one.keys() | other_one.keys())


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
        assert metrics.tasks["classification"].keys() == {"val", "test"}
