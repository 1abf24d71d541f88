"""Where a run computes, and in which precision."""

from __future__ import annotations

import torch

from mtl.config import TrainerConfig
from mtl.encoding import native_bf16
from mtl.errors import ConfigError, Problem


def device(flags: TrainerConfig) -> torch.device:
    """Return the device that the trainer will use.

    Raises:
        ConfigError: One is asked for that is not there.
    """
    wanted, cuda, mps = flags.accelerator, torch.cuda.is_available(), torch.backends.mps.is_available()
    if not {"auto": True, "cpu": True, "gpu": cuda or mps, "cuda": cuda, "mps": mps}[wanted]:
        found = f"{wanted}, and PyTorch {torch.__version__} finds none"
        repair = "trainer=cpu" + ("" if wanted == "mps" else ", or install a CUDA build of PyTorch")
        raise ConfigError(Problem("trainer.accelerator", found, "a device that is there", repair))
    if wanted == "cpu" or not (cuda or mps):
        return torch.device("cpu")
    return torch.device("cuda" if cuda and wanted != "mps" else "mps")


def precision(flags: TrainerConfig, where: torch.device) -> str:
    """Return Lightning's precision flag; ``auto`` is bf16 where the hardware computes it natively, otherwise fp32.

    Raises:
        ConfigError: fp16 is asked for on a CPU.
    """
    if flags.precision == "16-mixed" and where.type == "cpu":
        found, expected = "16-mixed on a CPU, which does not compute in fp16", "auto, 32-true or bf16-mixed"
        raise ConfigError(Problem("trainer.precision", found, expected))
    if flags.precision != "auto":
        return str(flags.precision)
    return "bf16-mixed" if native_bf16(where) else "32-true"
