"""Train in several processes on one machine: each takes a share of a step's rows, and gradients are summed.

Notation: ``R`` processes; a task has ``n_r`` rows of a step in process ``r`` and ``n`` in all of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.strategies import ParallelStrategy
from lightning_utilities.core.rank_zero import rank_zero_only
from torch import Tensor, nn

T = TypeVar("T")
BUCKET = 2**23
"""Numbers that are sent together: 32 MB of float32, so that gradients need little more memory than they take."""


@dataclass(frozen=True, slots=True)
class Place:
    """The rank of this process.

    Attributes:
        rank: Its number, from 0; process 0 writes and reports.
        world_size: The number of processes.
    """

    rank: int = 0
    world_size: int = 1


ALONE = Place()


class SummedGradients(ParallelStrategy):
    """Sum the gradients of all processes after the backward passes of an optimizer step.

    The loss of each process is its part of the mean over all rows (`over_processes`), so the sum is the gradient of a
    single process with all rows. `DistributedDataParallel` gives the mean over processes, which equals it only if all
    have the same number of rows. It also fixes at its start which parameters have gradients: a layer that unfreezes
    later, a head without rows in a step, or a process without rows would need a rebuilt reducer or a search of the
    graph. Here nothing is wrapped: after each backward pass the processes exchange which parameters have a gradient,
    and those of at least one process are summed; processes without a gradient contribute zeros. The price is that
    communication starts after the backward pass rather than during it.

    Args:
        place: The rank of this process.
        connect: Joins the default group of the processes, given the device of this one.
    """

    def __init__(self, place: Place, connect: Callable[[torch.device], None]) -> None:
        super().__init__(cluster_environment=_Placed(place))
        self._connect = connect
        self._waits = False

    @property
    def root_device(self) -> torch.device:
        """The device of this process."""
        assert self.parallel_devices is not None  # noqa: S101 - narrows for mypy
        return self.parallel_devices[0]

    def set_world_ranks(self) -> None:
        """Set the rank that Lightning's messages depend on."""
        rank_zero_only.rank = self.global_rank  # type: ignore[attr-defined]

    def setup_environment(self) -> None:
        """Take the device, and wait for the other processes."""
        super().setup_environment()
        self._connect(self.root_device)

    def model_to_device(self) -> None:
        """Move the module to this process's device."""
        assert self.model is not None  # noqa: S101 - narrows for mypy
        self.model.to(self.root_device)

    def setup(self, trainer: pl.Trainer) -> None:
        """Make the optimizer, and start from the weights of the first process."""
        super().setup(trainer)
        assert self.model is not None  # noqa: S101 - narrows for mypy
        for parameter in self.model.parameters():
            dist.broadcast(parameter.data, src=0)

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Do not sum gradients inside the block: more batches of the same optimizer step follow."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def post_backward(self, closure_loss: Tensor) -> None:
        """Sum the gradients, unless more batches of the step follow."""
        del closure_loss
        if self._waits:
            return
        assert self.lightning_module is not None  # noqa: S101 - narrows for mypy
        sum_gradients(
            [parameter for parameter in self.lightning_module.parameters() if parameter.requires_grad],
            whole=getattr(self.lightning_module, "combination", nn.Module()).parameters(),
        )

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Return the sum or the mean of a tensor over the processes."""
        if not isinstance(tensor, Tensor):
            return tensor
        total = tensor.clone()
        dist.all_reduce(total, group=group)
        return total / self.world_size if reduce_op in ("mean", "avg") else total

    def barrier(self, name: str | None = None) -> None:
        """Wait for all processes."""
        del name
        if dist.is_initialized():
            dist.barrier()

    def broadcast(self, obj: T, src: int = 0) -> T:
        """Return the value of the process ``src``; Lightning broadcasts paths and booleans."""
        if not dist.is_initialized():
            return obj
        value: T = gather_json(obj, self.root_device)[src]
        return value

    def teardown(self) -> None:
        """Leave the group: only the first process continues after training."""
        super().teardown()
        leave()


def leave() -> None:
    """Leave the group of processes, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def sum_gradients(parameters: Iterable[nn.Parameter], whole: Iterable[nn.Parameter] = ()) -> None:
    """Replace each gradient by its sum over all processes, in the same order of additions on all of them.

    A parameter without a gradient in any process keeps none, so that its optimizer leaves it alone, as it would in one
    process.

    Args:
        parameters: The parameters that are trained now, the same in all processes.
        whole: Those whose gradient is complete in each process already, so that the mean is taken.
    """
    parameters = list(parameters)
    if not parameters:
        return
    present = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.float32)
    present = present.to(parameters[0].device)
    dist.all_reduce(present)
    used = [parameter for parameter, count in zip(parameters, present.tolist(), strict=True) if count]
    for parameter in used:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets(used):
        _sum_bucket(bucket)
    for parameter in whole:
        if parameter.grad is not None:
            parameter.grad /= dist.get_world_size()


def _sum_bucket(parameters: list[nn.Parameter]) -> None:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if len(gradients) == 1 and gradients[0].is_contiguous():
        dist.all_reduce(gradients[0])
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield the parameters in groups of one type and at most `BUCKET` numbers, a larger one by itself."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and (size + parameter.numel() > BUCKET or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket


def sum_over_processes(own: Tensor) -> Tensor:
    """Sum a tensor over all processes in place, and return it."""
    dist.all_reduce(own)
    return own


def gather_json(value: Any, device: torch.device) -> list[Any]:
    """Return the value of each process, in the order of their ranks.

    `torch.distributed.all_gather_object` would unpickle what another process sends, which can run code.

    Args:
        value: A value that JSON can hold, or a path, which becomes a string.
        device: The device of this process.
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


def over_processes(losses: Mapping[str, Tensor], shares: Mapping[str, float] | None) -> dict[str, Tensor]:
    r"""Return each task's mean loss over the rows of all processes, the same number in each of them.

    .. math:: L = \sum_r \frac{n_r}{n} L_r

    Its gradient is that of this process's term alone: the sum over the processes is the gradient of ``L``.

    Args:
        losses: The mean loss of each task over this process's rows, ``L_r``, scalars.
        shares: ``n_r / n`` of each task; None with a single process.
    """
    if shares is None:
        return dict(losses)
    parts = {task: loss * shares[task] for task, loss in losses.items()}
    values = torch.stack([part.detach() for part in parts.values()])
    dist.all_reduce(values)
    whole: Callable[[Tensor, Tensor], Tensor] = _Whole.apply
    return {task: whole(part, value) for (task, part), value in zip(parts.items(), values, strict=True)}


class _Whole(torch.autograd.Function):
    """The value of the whole with the gradient of a part of it."""

    @staticmethod
    def forward(part: Tensor, whole: Tensor) -> Tensor:
        del part
        return whole.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        del ctx
        return gradient, None


class _Placed(ClusterEnvironment):
    """The rank of this process for Lightning; the processes run already and are connected by `SummedGradients`."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        raise NotImplementedError("the processes are connected without it")

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._place.world_size

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return self._place.rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return self._place.rank

    def node_rank(self) -> int:
        return 0
