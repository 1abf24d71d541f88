"""The processes of a parallel training on one machine: started, in a sweep, killed, stopped; and who is let in."""

from __future__ import annotations

import ipaddress
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from mtl.evaluation.run_metrics import read_metrics
from tests.support.commands import call, outside
from tests.support.runs import data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PARALLEL = ["backbone=tiny", "trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true"]
PARALLEL += ["evaluation.figures=false", "evaluation.error_analysis=false", "retention.path=null"]
SECONDS = 600


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def rank_of(pid: int) -> str:
    """Return the rank of a process, empty if it has none."""
    with suppress(OSError):
        for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if variable.startswith(b"RANK="):
                return variable.removeprefix(b"RANK=").decode()
    return ""


@contextmanager
def training(folder: Path, epochs: int, *, steps: int = 3) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Begin a training in ``folder/run``: yields the process that waits, and the number of that with rank 1.

    Their temporary files are in ``folder/temporary``.

    Args:
        folder: Where to train.
        epochs: How long to train.
        steps: How far training has come when the block begins; 0: the processes have just been started.
    """
    if not Path("/proc/self/task").is_dir():
        pytest.skip("looks for processes in /proc")
    (folder / "temporary").mkdir()
    first = subprocess.Popen(
        [sys.executable, "-m", "mtl.train", *flags(folder, epochs), "hydra.run.dir=run"],
        cwd=folder,
        env={**outside(), "TMPDIR": str(folder / "temporary")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        ranks: dict[str, int] = {}

        def started() -> bool:
            ranks.update({rank_of(child): child for child in children(first.pid)})
            return first.poll() is not None or ("1" in ranks and logged(folder) >= steps)

        until(started)
        assert first.poll() is None
        yield first, ranks["1"]
    finally:
        first.kill()
        first.communicate()


def logged(folder: Path) -> int:
    log = folder / "run/logs/metrics.csv"
    return len(log.read_text().splitlines()) - 1 if log.is_file() else 0


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
        "      expected: all processes running until the end of training\n"
        "      repair:   find out what ended it; if the system did, for lack of memory: a smaller data.batch_size\n"
    )


@pytest.mark.slow
def test_the_others_end_with_the_first_process(endless: tuple[subprocess.Popen[str], int], tmp_path: Path) -> None:
    first, other = endless
    first.kill()
    until(lambda: not lives(other))
    assert not list((tmp_path / "temporary").glob("mtl-*"))


@pytest.mark.slow
def test_ctrl_c_ends_all_processes(endless: tuple[subprocess.Popen[str], int]) -> None:
    first, other = endless
    first.send_signal(signal.SIGINT)  # the others are in sessions of their own, which a terminal does not reach
    _, said = first.communicate(timeout=SECONDS)
    assert (first.returncode, said.splitlines()[-1]) == (130, "interrupted")
    until(lambda: not lives(other))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)])
def test_a_signal_ends_the_training_although_a_process_is_suspended(
    tmp_path: Path, steps: int, number: signal.Signals, code: int
) -> None:
    with training(tmp_path, 100_000, steps=steps) as (first, other):
        os.kill(other, signal.SIGSTOP)
        time.sleep(1)  # in which the process of rank 0 comes to wait for the other
        first.send_signal(number)
        _, stderr = first.communicate(timeout=SECONDS)
    assert first.returncode == code, stderr
    assert "Traceback" not in stderr
    until(lambda: not lives(other))
    assert not list((tmp_path / "temporary").glob("mtl-*"))


class Intruder:
    """Leaves a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.file),)


@pytest.mark.slow
def test_strangers_are_not_let_in(endless: tuple[subprocess.Popen[str], int], tmp_path: Path) -> None:
    first, _ = endless
    intruder = pickle.dumps(Intruder(tmp_path / "intruded"))
    addresses = [address for pid in (first.pid, *children(first.pid)) for address in listening(pid)]
    for host, port in addresses:
        assert ipaddress.ip_address(host).is_loopback
        for payload in (intruder, bytes(8), bytes(8) + intruder, (1).to_bytes(8, "little") + intruder):
            with suppress(OSError), socket.create_connection((host, port), timeout=5) as connection:
                connection.sendall(payload)
    for folder in (tmp_path / "temporary").glob("mtl-*"):  # torch makes others
        assert folder.stat().st_mode & 0o777 == 0o700
    done = logged(tmp_path)
    until(lambda: first.poll() is not None or logged(tmp_path) > done + 3)
    assert first.poll() is None
    assert not (tmp_path / "intruded").exists()


def listening(pid: int) -> list[tuple[str, int]]:
    """Return where a process accepts connections, as Linux tells it."""
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            links.append(str(link.readlink()))
    addresses = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in links:
                host, _, port = columns[1].partition(":")
                words = [bytes.fromhex(host[start : start + 8])[::-1] for start in range(0, len(host), 8)]
                addresses.append((str(ipaddress.ip_address(b"".join(words))), int(port, 16)))
    return addresses


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loopback", "code"),
    [("true", 2), ("ip link set lo up && ip address delete 127.0.0.1/8 dev lo", 0)],
    ids=["no loopback", "IPv6 only"],
)
def test_a_loopback_interface_that_is_down_or_knows_one_protocol(tmp_path: Path, loopback: str, code: int) -> None:
    inside = ["unshare", "--map-root-user", "--net", "sh", "-c", f'{loopback} && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a network of its own is not allowed here")
    command = [sys.executable, "-m", "mtl.train", *flags(tmp_path, 1)]
    ended = subprocess.run(
        [*inside, *command], cwd=tmp_path, env=outside(), capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert ended.returncode == code, ended.stderr
    if code:
        assert ended.stderr == (
            "Configuration: 1 problem\n"
            "  trainer.devices\n"
            "      found:    2 processes, and the loopback interface is down\n"
            "      expected: processes that connect\n"
            "      repair:   give trainer.devices=1, or enable the interface: ip link set lo up\n"
        )


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    with training(tmp_path, 60) as (first, other):
        first.terminate()
        first.communicate(timeout=SECONDS)
        assert first.returncode == 143
        until(lambda: not lives(other))
    resumed = call("mtl.train", "resume=run", folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "after step" in resumed.stdout
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
