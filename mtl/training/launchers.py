"""Launchers (torchrun, srun, mpirun, jsrun), which start several processes: a run starts its own ones."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from mtl.base.errors import ConfigError, Problem

_LAUNCHERS = {
    "WORLD_SIZE": "env -u WORLD_SIZE ",
    "SLURM_STEP_NUM_TASKS": "srun --ntasks=1 ",
    "OMPI_COMM_WORLD_SIZE": "",
    "PMI_SIZE": "",
    "JSM_NAMESPACE_SIZE": "",
}
"""The variables in which launchers (torchrun, srun, mpirun, jsrun) give the number of processes, and the prefix of a
command that starts a single one."""


def refuse_launchers(environment: Mapping[str, str], arguments: Sequence[str]) -> None:
    """Refuse to run as one of several processes of a launcher: each would train a whole model.

    Args:
        environment: The variables of this process.
        arguments: The command line.

    Raises:
        ConfigError: A launcher has started several processes.
    """
    for name, prefix in _LAUNCHERS.items():
        number = environment.get(name, "")
        if not number.isdecimal() or int(number) < 2:
            continue
        if "TORCHELASTIC_RUN_ID" in environment:
            prefix = ""  # torchrun sets WORLD_SIZE for its own processes alone
        here = environment.get("LOCAL_WORLD_SIZE", number)
        words = [word for word in arguments if not word.startswith(("trainer=", "trainer.devices="))]
        if not any(word.startswith("resume=") for word in words):  # a resumed run has its own configuration
            words += ["trainer=ddp", f"trainer.devices={here}"]
        found = f"{name}={number}: one of {number} processes that a launcher has started"
        expected = "one process, which starts the others itself, on this machine"
        raise ConfigError(Problem("launcher", found, expected, f"{prefix}python -m mtl.train {shlex.join(words)}"))
