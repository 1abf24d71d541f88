"""The machine: what it is, and its matrix rate, the yardstick for everything that an encoder does."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in this field

from tests.benchmarks.timing import seconds

if TYPE_CHECKING:
    from torch import Tensor

SHAPES = ((2048, 384, 1536), (2048, 1536, 384), (2048, 768, 3072), (2048, 3072, 768))
"""Tokens, inputs and outputs of the linear layers that hold most of MiniLM's and MPNet's work."""
REPEATS = 10


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine and its speed.

    Attributes:
        cpu: Name of the CPU.
        cores: Cores that this process may use.
        threads: Threads that PyTorch computes with.
        gpu: Name of the GPU, empty if there is none.
        torch_version: PyTorch's version.
        fp32: Matrix rate in fp32, TFLOP/s, on the GPU if there is one.
        bf16: Matrix rate in bf16, TFLOP/s.
        load: Processes that wanted a core in the last minute, as the system counts them.
    """

    cpu: str
    cores: int
    threads: int
    gpu: str
    torch_version: str
    fp32: float
    bf16: float
    load: float

    def share(self, flops: float, duration: float, precision: str) -> float:
        """Return which share of the matrix rate ``flops`` in ``duration`` seconds are."""
        return flops / duration / (self.rate(precision) * 1e12)

    def rate(self, precision: str) -> float:
        """Return the matrix rate in ``bf16`` or ``fp32``, TFLOP/s."""
        return self.bf16 if precision == "bf16" else self.fp32

    def __str__(self) -> str:
        where = f"{self.gpu}, {self.cpu}" if self.gpu else self.cpu
        rates = f"matrix rate {self.fp32:.3g} TFLOP/s fp32, {self.bf16:.3g} bf16"
        return f"{where}, {self.cores} cores, torch {self.torch_version}, load {self.load:.1f}; {rates}"


def device() -> torch.device:
    """Return where the benchmarks run: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def measure_machine() -> Machine:
    """Describe this machine and measure its matrix rates, in about a second."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        torch_version=torch.__version__,
        fp32=matrix_rate(torch.float32),
        bf16=matrix_rate(torch.bfloat16),
        load=os.getloadavg()[0],
    )


def matrix_rate(dtype: torch.dtype) -> float:
    """Return the best rate over the shapes of `SHAPES` and `REPEATS` runs of each, TFLOP/s."""
    return max(_rate(tokens, inputs, outputs, dtype) for tokens, inputs, outputs in SHAPES)


def _rate(tokens: int, inputs: int, outputs: int, dtype: torch.dtype) -> float:
    hidden = torch.randn(tokens, inputs, device=device()).to(dtype)
    weight = torch.randn(outputs, inputs, device=device()).to(dtype)

    def product() -> Tensor:
        return F.linear(hidden, weight)

    product()
    best = min(seconds(product) for _ in range(REPEATS))
    return 2 * tokens * inputs * outputs / best / 1e12


def _cpu() -> str:
    """Return the CPU's name, on Linux as the kernel knows it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    print(measure_machine())
