"""Two network namespaces as two machines: torchrun trains one model on both; one is lost; both resume."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file

from tests.support.commands import call, outside
from tests.support.runs import data

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 900
PORT = 29400
ADDRESSES = ("10.213.77.1", "10.213.77.2")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """The names of two network namespaces with a cable between them."""
    names = (f"mtl-{os.getpid()}-0", f"mtl-{os.getpid()}-1")
    cards = tuple(f"v{os.getpid()}x{at}" for at in (0, 1))
    if not shutil.which("ip"):
        pytest.skip("no command ip")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", cards[0], "netns", names[0], "type", "veth", "peer", "name", cards[1], "netns", names[1])
        for name, card, address in zip(names, cards, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", card)
            ip("-n", name, "link", "set", card, "name", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


class Machines:
    """``torchrun`` on both machines, each in a session of its own and in the same folder.

    Args:
        hosts: The names of their network namespaces.
        folder: The working folder.
        arguments: The arguments of ``mtl.train``.
    """

    def __init__(self, hosts: tuple[str, str], folder: Path, *arguments: str) -> None:
        launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
        launch += [f"--master-addr={ADDRESSES[0]}", f"--master-port={PORT}"]
        self.processes = [
            subprocess.Popen(
                [
                    "ip",
                    "netns",
                    "exec",
                    name,
                    *launch,
                    f"--node-rank={at}",
                    "-m",
                    "mtl.train",
                    *arguments,
                ],
                cwd=folder,
                env={**outside(), "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for at, name in enumerate(hosts)
        ]

    def wait(self, *ranks: int) -> list[tuple[int, str, str]]:
        """Return exit code, output and error output of these machines."""
        texts = [self.processes[rank].communicate(timeout=SECONDS) for rank in ranks]
        return [(self.processes[rank].returncode, *text) for rank, text in zip(ranks, texts, strict=True)]

    def kill(self, host: str) -> None:
        """Kill all processes of a machine at once."""
        pids = subprocess.run(["ip", "netns", "pids", host], check=True, capture_output=True, text=True).stdout.split()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def logged(run: Path) -> int:
    log = run / "logs/metrics.csv"
    return len(log.read_text().splitlines()) if log.is_file() else 0


@pytest.mark.slow
def test_two_machines_train_one_model(hosts: tuple[str, str], tmp_path: Path) -> None:
    flags = [*data(tmp_path), "backbone=tiny", "trainer.accelerator=cpu", "trainer.precision=32-true"]
    flags += ["evaluation.figures=false", "evaluation.error_analysis=false", "retention.path=null"]
    flags += ["trainer.log_every_n_steps=1", "callbacks.keep_best=false", "data.batch_size=4", "trainer.max_epochs=60"]
    alone = call("mtl.train", "trainer=ddp", *flags, "hydra.run.dir=alone", folder=tmp_path)
    assert alone.returncode == 0, alone.stderr

    run = tmp_path / "run"
    machines = Machines(hosts, tmp_path, *flags, f"hydra.run.dir={run}", "callbacks.save_every_steps=5")
    try:
        end = time.monotonic() + SECONDS
        while logged(run) < 10 or not (run / "checkpoints/last.ckpt").is_file():
            assert all(process.poll() is None for process in machines.processes), machines.wait(0, 1)
            assert time.monotonic() < end
            time.sleep(0.2)
        machines.kill(hosts[1])
        lost = time.monotonic()
        (code, _, stderr), _ = machines.wait(0, 1)
        assert code != 0
        assert time.monotonic() - lost < SECONDS
        assert stderr.count("process 0 of 0 to 1\n      found:    another one has ended or does not answer: ") == 1
        assert "Traceback" not in stderr.partition("Training: 1 problem")[0]
        assert not [path.name for path in run.rglob(".*") if path.name.startswith((".partial", ".old"))]
        assert not (run / "metrics.json").exists()

        machines = Machines(hosts, tmp_path, f"resume={run}")
        (first, second) = machines.wait(0, 1)
        assert (first[0], second[0]) == (0, 0), (first, second)
        assert "after step" in first[1]
        assert second[1] == ""
    finally:
        for host in hosts:
            machines.kill(host)
    for name in ("model.safetensors", "heads.safetensors"):
        one, other = (load_file(folder / "model" / name) for folder in (run, tmp_path / "alone"))
        assert max(float((one[key] - other[key]).abs().max()) for key in one.keys() | other.keys()) < 1e-5
