"""The processes that train one model together: which of them this one is, and how they meet.

They are started by a launcher of the user (torchrun, srun, mpirun, jsrun), or on this machine by
`mtl.training.launch`. Either way each has the variables that torchrun sets. The first one reads the command,
checks it, and decides on the run folder; it sends each job to the others, which train with it and write nothing.

What processes send to each other are numbers and JSON, never pickled objects, which could run code.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl.base.errors import ConfigError, MtlError, Problem, Terminated, TrainingError
from mtl.config.checks import load
from mtl.config.fields import Config

if TYPE_CHECKING:
    import torch
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from torch.distributed.distributed_c10d import Store

_TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others in training; one of them may be filling the cache of activations."""
_LONG = timedelta(days=365)
"""How long a process waits for its next job: the first one evaluates alone, and ends the others when it ends."""
_FAREWELL = timedelta(seconds=5)
_LOOPBACK = ("lo", "lo0")
"""Names of the loopback interface: on Linux, on macOS and BSD."""
_SIZES = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "JSM_NAMESPACE_SIZE")
"""The variables in which launchers give the number of processes."""
_LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
"""Set before torch is imported: no warning that a step had no unused parameters, as those of all tasks have none."""
ON_THIS_MACHINE = "MTL_MEETING"
"""The variable with the folder in which processes started by `mtl.training.launch` meet."""


@dataclass(frozen=True, slots=True)
class Process:
    """One of the processes that train together."""

    rank: int = 0  # its number; process 0 writes and reports
    world_size: int = 1
    local_rank: int = 0  # its number among those of its machine, which is that of its device
    local_size: int = 1  # the number of processes on its machine


ALONE = Process()


class LostPeersError(TrainingError):
    """Another process has ended, or does not answer: the cause is in that one."""


@dataclass(slots=True)
class Group:
    """The processes that train together, of which this is one."""

    process: Process
    store: Store  # what all processes read and write
    _jobs: int = field(default=0, init=False)

    def send(self, job: Mapping[str, Any] | None) -> None:
        """Let the others do a job with this process, which is the first one; see `receive`."""
        self._jobs += 1
        self.store.set(f"job {self._jobs}", json.dumps(job))

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Tell the others after the block that no job follows, and wait until they know: the store may end with it."""
        waits = True
        try:
            yield
        except (KeyboardInterrupt, Terminated, LostPeersError):
            waits = False
            raise
        finally:
            self.send(None)
            if waits:
                with suppress(RuntimeError):
                    self.store.wait([f"left {rank}" for rank in range(1, self.process.world_size)], _FAREWELL)

    def receive(self) -> dict[str, Any] | None:
        """Return the next job: configuration, run folder, and whether to resume; None if there is no other."""
        self._jobs += 1
        try:
            self.store.wait([f"job {self._jobs}"], _LONG)
            job: dict[str, Any] | None = json.loads(self.store.get(f"job {self._jobs}"))
            if job is None:
                self.store.set(f"left {self.process.rank}", "")
        except RuntimeError as error:
            raise _lost_peers(error, self.process) from error
        return job

    @contextmanager
    def joined(self, device: torch.device, folder: Path) -> Iterator[None]:
        """Let this process, with its device, exchange tensors with the others inside the block.

        Raises:
            LostPeersError: Another process has ended or does not answer.
        """
        import torch.distributed as dist
        from torch.distributed.distributed_c10d import PrefixStore

        if ON_THIS_MACHINE in os.environ:
            for interface in {name for _, name in socket.if_nameindex()} & set(_LOOPBACK):
                os.environ |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}"}
        cuda = device.type == "cuda"
        try:
            dist.init_process_group(
                "nccl" if cuda else "gloo",
                store=PrefixStore(f"group {self._jobs}", self.store),
                rank=self.process.rank,
                world_size=self.process.world_size,
                timeout=_TIMEOUT,
                device_id=device if cuda else None,
            )
            yield
        except MtlError:
            raise
        except Exception as error:
            by_others = isinstance(error, dist.DistError) or "gloo" in str(error).lower()
            if dist.is_initialized() and not by_others:
                raise
            raise _lost_peers(error, self.process, f" with resume={shlex.quote(str(folder))}") from error
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


def _lost_peers(error: Exception, process: Process, how: str = "") -> LostPeersError:
    reason = str(error).strip().partition("\n")[0]
    return LostPeersError(
        Problem(
            f"process {process.rank} of 0 to {process.world_size - 1}",
            f"another one has ended or does not answer: {reason}",
            "all processes running until the end of training",
            f"find out what ended it, then start all processes again{how}",
        )
    )


def is_launched(environment: Mapping[str, str]) -> bool:
    """Whether a launcher has started this process as one of several."""
    return any(_size(environment, name) > 1 for name in _SIZES)


def _size(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    return int(value) if value.isdecimal() else 0


def join(arguments: Sequence[str]) -> Group:
    """Return the group of the processes that a launcher has started, for a command line with these arguments."""
    os.environ |= QUIET
    from torch.distributed.rendezvous import rendezvous

    _set_variables_of_torchrun(arguments)
    process = _process()
    if folder := os.environ.get(ON_THIS_MACHINE):
        return Group(process, next(rendezvous(f"file://{folder}/store", process.rank, process.world_size))[0])
    return Group(process, next(rendezvous("env://", timeout=_TIMEOUT))[0])


def _process() -> Process:
    rank, world_size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    local_size = next((size for name in _LOCAL_SIZES if (size := _size(os.environ, name))), world_size)
    return Process(rank, world_size, local_rank, local_size)


def _set_variables_of_torchrun(arguments: Sequence[str]) -> None:
    """Set the variables of torchrun from those of another launcher, which Lightning knows."""
    if os.environ.keys() >= set(_TORCHRUN) or ON_THIS_MACHINE in os.environ:
        return
    from lightning.fabric.plugins.environments.lsf import LSFEnvironment
    from lightning.fabric.plugins.environments.mpi import MPIEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    name = next(name for name in _SIZES if _size(os.environ, name) > 1)
    found = f"{name}={os.environ[name]}: one of several processes"
    try:
        kinds: tuple[type[ClusterEnvironment], ...] = (SLURMEnvironment, LSFEnvironment, MPIEnvironment)
        cluster = next((kind() for kind in kinds if kind.detect()), None)
        if cluster is None:
            expected = f"torchrun, srun, jsrun, mpirun with mpi4py, or the variables {', '.join(_TORCHRUN)}"
            plain = shlex.join(["python", "-m", "mtl.train", *arguments])
            raise ConfigError(Problem("launcher", found, expected, f"for a single process: env -u {name} {plain}"))
        values = (cluster.global_rank(), cluster.world_size(), cluster.local_rank())
        address, port = cluster.main_address, cluster.main_port
    except (RuntimeError, KeyError, ValueError) as error:
        raise ConfigError(Problem("launcher", f"{found}, and {error}", "variables that Lightning can read")) from None
    os.environ |= {name: str(value) for name, value in zip(_TORCHRUN, (*values, address, port), strict=True)}


def of_launcher(config: Config, process: Process, *, resume: bool = False) -> Config:
    """Return the configuration with the number of processes that the launcher has started."""
    devices, nodes = config.trainer.devices, -(-process.world_size // process.local_size)
    number = len(devices) if isinstance(devices, list) else devices
    if resume:
        config = for_processes(config, process.world_size)
    elif number not in (1, -1, "auto", process.local_size) or config.trainer.num_nodes not in (None, 1, nodes):
        found = f"devices={devices}, num_nodes={config.trainer.num_nodes or 1}"
        expected = f"devices={process.local_size}, num_nodes={nodes}, as the launcher has started, or neither"
        raise ConfigError(Problem("trainer", found, expected))
    trainer = replace(
        config.trainer,
        devices=devices if number == process.local_size else process.local_size,
        num_nodes=nodes if nodes > 1 else None,
    )
    return load(asdict(replace(config, trainer=trainer)))


def for_processes(config: Config, number: int) -> Config:
    """Return the configuration of a run that is resumed in another number of processes, with the same steps."""
    data, before = config.data, processes_of(asdict(config.trainer))
    if before is None or before == number:
        return config
    totals = {"batch_size": data.batch_size * before, "max_tokens": data.max_tokens * before}
    if problems := [
        Problem(f"data.{key}", f"{total} in {before} processes, {number} now", f"a divisor of {total} processes")
        for key, total in totals.items()
        if total % number
    ]:
        raise ConfigError(problems)
    rows, tokens = (total // number for total in totals.values())
    trainer = replace(config.trainer, devices=number, num_nodes=None)
    return load(asdict(replace(config, data=replace(data, batch_size=rows, max_tokens=tokens), trainer=trainer)))


def processes_of(trainer: Mapping[str, Any]) -> int | None:
    """Return the number of processes that a trainer's flags name; None if it depends on the machine."""
    devices = trainer["devices"]
    if devices in (-1, "auto"):
        return None
    return (len(devices) if isinstance(devices, list) else int(devices)) * (trainer["num_nodes"] or 1)
