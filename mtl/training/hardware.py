"""The device, the number of processes and the precision of a run."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import replace

import torch

from mtl.activations.encoding import native_bf16
from mtl.base.errors import ConfigError, Problem
from mtl.config.trainer import TrainerConfig


def choose_device(flags: TrainerConfig, rank: int = 0) -> torch.device:
    """Return the device that the trainer will use in the process ``rank`` of this machine."""
    wanted, cuda, mps = flags.accelerator, torch.cuda.is_available(), torch.backends.mps.is_available()
    if not {"auto": True, "cpu": True, "gpu": cuda or mps, "cuda": cuda, "mps": mps}[wanted]:
        found = f"{wanted}, and PyTorch {torch.__version__} finds none"
        repair = "trainer=cpu" + ("" if wanted == "mps" else ", or install a CUDA build of PyTorch")
        raise ConfigError(Problem("trainer.accelerator", found, "an available device", repair))
    if wanted == "cpu" or not (cuda or mps):
        return torch.device("cpu")
    if not cuda or wanted == "mps":
        return torch.device("mps")
    return torch.device("cuda", _cards(flags)[rank])


def count_processes(flags: TrainerConfig) -> int:
    """Return how many processes to start on this machine: one per device, on a CPU the number that ``devices`` names.

    Raises:
        ConfigError: There are fewer devices, the processes could not connect, or other machines are to take part.
    """
    if flags.num_nodes not in (None, 1):
        expected = f"a launcher that starts this command on {flags.num_nodes} machines"
        repair = f"on each: torchrun --nnodes {flags.num_nodes} --nproc-per-node … --rdzv-backend c10d"
        repair += " --rdzv-endpoint HOST:PORT -m mtl.train …"
        raise ConfigError(Problem("trainer.num_nodes", f"{flags.num_nodes}, and no launcher", expected, repair))
    number = _processes(flags)
    if number > 1 and not _loopback_works():
        found = f"{number} processes, and the loopback interface is down"
        repair = "give trainer.devices=1, or enable the interface: ip link set lo up"
        raise ConfigError(Problem("trainer.devices", found, "processes that connect", repair))
    return number


def _processes(flags: TrainerConfig) -> int:
    wanted = flags.devices
    if wanted == 1:
        return 1
    kind = choose_device(replace(flags, devices=1)).type
    if kind == "cuda":
        return len(_cards(flags))
    if not isinstance(wanted, int) or wanted < 2:
        return 1  # auto; other values are refused by Lightning
    if kind == "mps":
        raise ConfigError(Problem("trainer.devices", f"{wanted}, and mps is one device", "1", "give trainer.devices=1"))
    return wanted


def _loopback_works() -> bool:
    """Whether a process of this machine can connect to another one over IPv4 or IPv6."""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with (
            suppress(OSError),
            socket.create_server((host, 0), family=family) as server,
            socket.create_connection(server.getsockname()[:2], timeout=5),
        ):
            return True
    return False


def _cards(flags: TrainerConfig) -> list[int]:
    """Return the numbers of the requested CUDA devices."""
    there, wanted = torch.cuda.device_count(), flags.devices
    cards = wanted if isinstance(wanted, list) else range(there if wanted in ("auto", -1) else int(wanted))
    if any(card >= there for card in cards):
        found = f"{wanted}, and PyTorch finds {there} CUDA device{'' if there == 1 else 's'}"
        expected = f"numbers below {there}" if isinstance(wanted, list) else f"at most {there}"
        raise ConfigError(Problem("trainer.devices", found, expected, "give trainer.devices=-1 for all"))
    return list(cards)


def choose_precision(flags: TrainerConfig, device: torch.device, *, heads_alone: bool = False) -> str:
    """Return Lightning's precision flag; ``auto`` is bf16 where the hardware computes it natively, otherwise fp32.

    It is fp32 also where heads alone are trained, on cached embeddings: rounding the operands of such small products
    takes longer than bf16 saves.
    """
    if flags.precision == "16-mixed" and device.type == "cpu":
        found, expected = "16-mixed on a CPU, which does not compute in fp16", "auto, 32-true or bf16-mixed"
        raise ConfigError(Problem("trainer.precision", found, expected))
    if flags.precision != "auto":
        return str(flags.precision)
    return "bf16-mixed" if native_bf16(device) and not heads_alone else "32-true"
