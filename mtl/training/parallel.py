"""What several processes that train one model exchange: gradients, losses, and values as JSON."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy, ParallelStrategy
from torch import Tensor

from mtl.base.errors import Problem, TrainingError

T = TypeVar("T")


class Peers(ParallelStrategy):
    """What the strategies have in common: a process knows its own device alone, and unpickles nothing from others."""

    @property
    def root_device(self) -> torch.device:
        """The device of this process."""
        assert self.parallel_devices is not None  # noqa: S101 - narrows for mypy
        return self.parallel_devices[0]

    @property
    def module(self) -> LightningModule:
        """The module that is trained."""
        assert self.lightning_module is not None  # noqa: S101 - narrows for mypy
        return self.lightning_module

    def broadcast(self, obj: T, src: int = 0) -> T:
        """Return the value of the process ``src``; Lightning broadcasts paths and booleans."""
        value: T = gather_json(obj, self.root_device)[src] if dist.is_initialized() else obj
        return value


class SharedRows(Peers, DDPStrategy):
    """Lightning's DDP strategy, for processes that share the rows of each step unequally.

    `DistributedDataParallel` averages gradients over the processes during the backward pass; `over_processes` scales
    the losses so that this mean is the gradient of a single process with all rows. Two things differ from the defaults:

    - A process without rows of a task leaves its head out, so unused parameters are searched for in each step.
    - `DistributedDataParallel` takes note of the trained parameters when it wraps the module. The module is wrapped
      again when that changes: layers that unfreeze later would silently not be averaged.
    """

    def __init__(self) -> None:
        super().__init__(
            find_unused_parameters=True,
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,  # no second copy of all gradients, 436 MB with MPNet
        )
        self._trained: list[bool] = []

    def configure_ddp(self) -> None:
        """Leave the module as it is until the first step, when its layers are frozen."""

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Do a training step, and wrap the module before it if other parameters are trained than in the last one."""
        trained = [parameter.requires_grad for parameter in self.module.parameters()]
        if trained != self._trained:
            self._trained = trained
            self.model = self.module
            super().configure_ddp()
        return super().training_step(*args, **kwargs)


def sum_over_processes(own: Tensor) -> Tensor:
    """Sum a tensor over all processes in place, and return it."""
    dist.all_reduce(own)
    return own


def gather_json(value: Any, device: torch.device) -> list[Any]:
    """Return the value of each process in the order of their ranks, given that of this one and its device.

    A value is what JSON can hold, or a path, which becomes a string. `torch.distributed.all_gather_object` would
    unpickle what another process sends, which can run code.
    """
    text = json.dumps(value, default=os.fspath).encode()
    own = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(device)
    lengths = _gathered(torch.tensor([len(own)], device=device))
    padded = torch.nn.functional.pad(own, (0, int(max(lengths)) - len(own)))
    texts = [row[: int(length)] for row, length in zip(_gathered(padded), lengths, strict=True)]
    return [json.loads(bytes(row.tolist())) for row in texts]


def _gathered(own: Tensor) -> list[Tensor]:
    """Return the tensors of all processes, which have the same shape."""
    tensors = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(tensors, own)
    return tensors


def check_same_inputs(inputs: Mapping[str, Any], device: torch.device) -> None:
    """Check that all processes, perhaps of several machines, have the same rows, weights and versions.

    ``inputs`` is the fingerprint of this process, see `mtl.training.fingerprint`.
    """
    own = {
        name: hashlib.sha256(json.dumps(inputs[name], sort_keys=True).encode()).hexdigest()
        for name in ("rows", "weights", "versions")
    }
    first, *others = gather_json(own, device)
    if problems := [
        Problem(
            f"process {rank} of 0 to {len(others)}",
            f"other {name} than in process 0",
            "the same data files, weights and versions on all machines",
        )
        for rank, values in enumerate(others, start=1)
        for name in first
        if values[name] != first[name]
    ]:
        raise TrainingError(problems)


def over_processes(losses: Mapping[str, Tensor], shares: Mapping[str, float] | None) -> dict[str, Tensor]:
    r"""Return each task's mean loss over the rows of all processes, the same number in each of them.

    .. math:: L = \sum_r \frac{n_r}{n} L_r = \frac{1}{R} \sum_r \frac{R n_r}{n} L_r

    Its gradient in a process is that of this process's term of the mean on the right alone: the mean of the gradients
    over the ``R`` processes is the gradient of ``L``.

    Args:
        losses: The mean loss of each task over this process's rows, ``L_r``, scalars.
        shares: ``n_r / n`` of each task; None with a single process.
    """
    if shares is None:
        return dict(losses)
    parts = {task: loss * shares[task] for task, loss in losses.items()}
    values = sum_over_processes(torch.stack([part.detach() for part in parts.values()]))
    whole: Callable[[Tensor, Tensor], Tensor] = _Whole.apply
    return {task: whole(part, value) for (task, part), value in zip(parts.items(), values, strict=True)}


class _Whole(torch.autograd.Function):
    """The value of the whole, with the gradient of a part of it times the number of processes."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, whole: Tensor) -> Tensor:
        del ctx, part
        return whole.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        del ctx
        return gradient * dist.get_world_size(), None
