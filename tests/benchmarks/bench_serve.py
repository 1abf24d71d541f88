"""Serving: requests per second of `python -m mtl.serve`, without batching, and of a plain handler."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.benchmarks import tool
from tests.benchmarks.corpora import sentences
from tests.benchmarks.figures import ROOT, Figure
from tests.benchmarks.machine import Machine
from tests.support.serving import write_model

TINY = ("--seconds=1", "--clients", "4")
TARGET = "≥ 3.00"


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = argparse.ArgumentParser(prog="bench_serve", description=__doc__)
    options.add_argument("--seconds", type=float, default=10.0, help="of each measurement (default: %(default)s)")
    options.add_argument(
        "--clients", type=int, nargs="*", default=[1, 20, 200], help="default: %(default)s; none: the soak"
    )
    options.add_argument("--soak", type=int, default=0, help="requests of a soak at the end (default: none)")
    tool.add_backbone(options)
    return options


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients saw: the seconds of every answered request, the number of failed ones, and the whole time."""

    latencies: list[float]
    errors: int
    seconds: float

    @property
    def rate(self) -> float:
        """Answered requests per second."""
        return len(self.latencies) / self.seconds

    def __str__(self) -> str:
        p50, p99 = np.percentile(self.latencies or [0.0], [50, 99]) * 1000
        return f"{self.rate:,.0f} requests/s, p50 {p50:,.0f} ms, p99 {p99:,.0f} ms, {self.errors} errors"


def measure(options: argparse.Namespace, machine: Machine) -> list[Figure]:
    """Start the servers one after the other, and send them the same sentences."""
    del machine
    texts = sentences(2000)
    checkpoint = tool.checkpoint(options.backbone)
    figures, loads = [], {}
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model", checkpoint)
        ours = ["-m", "mtl.serve", f"model={model}", "device=cpu", "queue=10000"]
        servers = {
            "plain": ["-m", "tests.benchmarks.plain_server", str(checkpoint), "PORT"],
            "mtl.serve, each request alone": [*ours, "port=PORT", "batch_tokens=1"],
            "mtl.serve": [*ours, "port=PORT"],
        }
        if not options.clients:
            servers = {"mtl.serve": servers["mtl.serve"]}
        for name, command in servers.items():
            with _server(command) as (port, process):
                asyncio.run(_load(port, texts, 4, seconds=1.0))  # a warm-up
                for clients in options.clients:
                    loads[name, clients] = asyncio.run(_load(port, texts, clients, seconds=options.seconds))
                if name == "mtl.serve" and options.soak:
                    figures.append(_soak(port, process, texts, options.soak))
    return [
        *(
            Figure(
                what=f"{name}, {clients} clients: times the requests/s of the plain server",
                measured=str(load),
                ratio=load.rate / max(loads["plain", clients].rate, 1e-9),
                target=TARGET if name == "mtl.serve" and clients >= 200 else "",
            )
            for (name, clients), load in loads.items()
        ),
        *figures,
    ]


def _soak(port: int, process: subprocess.Popen[bytes], texts: Sequence[str], requests: int) -> Figure:
    """Send requests in ten parts, each from 50 new connections; every tenth text is 1 to 20 sentences long."""
    mixed = [" ".join([text] * (1 if at % 10 else 1 + at // 10 % 20)) for at, text in enumerate(texts)]
    memory, loads = [_resident(process)], []
    for part in range(10):
        count = requests * (part + 1) // 10 - requests * part // 10
        loads.append(asyncio.run(_load(port, mixed, 50, requests=count)))
        memory.append(_resident(process))
    latencies = [seconds for load in loads for seconds in load.latencies]
    load = Load(latencies, sum(load.errors for load in loads), sum(load.seconds for load in loads))
    return Figure(
        what=f"soak of {requests:,} requests from 50 clients: resident memory at the start and after each tenth",
        measured=f"{' '.join(f'{size:,.0f}' for size in memory)} MiB; {load}",
    )


def _resident(process: subprocess.Popen[bytes]) -> float:
    for line in Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return float("nan")


@contextmanager
def _server(command: Sequence[str]) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = [argument.replace("PORT", str(port)) for argument in command]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with {process.returncode}: {' '.join(arguments)}")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield port, process
    finally:
        process.terminate()
        process.wait()


async def _load(port: int, texts: Sequence[str], clients: int, *, seconds: float = 1e9, requests: int = 10**12) -> Load:
    """Send requests from several clients, each the next one when the last one is answered."""
    latencies: list[float] = []
    errors = sent = 0
    start = time.perf_counter()

    async def client() -> None:
        nonlocal errors, sent
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() - start < seconds and sent < requests:
            body = json.dumps({"inputs": texts[sent % len(texts)]}).encode()
            sent += 1
            begun = time.perf_counter()
            head = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            if answer.startswith(b"HTTP/1.1 200 "):
                latencies.append(time.perf_counter() - begun)
            else:
                errors += 1
        writer.close()

    results = await asyncio.gather(*(client() for _ in range(clients)), return_exceptions=True)
    errors += sum(isinstance(result, Exception) for result in results)
    return Load(latencies, errors, time.perf_counter() - start)


if __name__ == "__main__":
    from tests.benchmarks.run import main

    main(["serve"], passed_on=True)
