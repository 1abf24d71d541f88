"""Training in several processes on one machine: each takes a share of a step's rows, and gradients are summed.

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
    """Which one of the processes of a training this is.

    Attributes:
        rank: Its number, from 0; 0 is the one that writes and reports.
        world_size: How many there are.
    """

    rank: int = 0
    world_size: int = 1


ALONE = Place()


class SummedGradients(ParallelStrategy):
    """Sums the gradients of all processes once the backward passes of an optimizer step are done.

    With losses that are each process's part of the mean over all rows (`over_processes`), the sum is the gradient that
    one process with all the rows would have. `DistributedDataParallel` gives the mean over processes, which is that
    only where all have equally many rows. It also settles at its start which parameters have gradients: a layer that
    thaws later, a head without rows in a step, or a process without any would each need a rebuilt reducer or a search
    of the graph. Here nothing is wrapped: after each backward pass the processes tell each other which parameters have
    a gradient, and those of at least one are summed; who has none adds 0. The price is that sending starts when the
    backward pass is over rather than during it.

    Args:
        place: Which of the processes this is.
        connect: Joins the processes' default group, given the device that this one computes on.
    """

    def __init__(self, place: Place, connect: Callable[[torch.device], None]) -> None:
        super().__init__(cluster_environment=_Placed(place))
        self._connect = connect
        self._waits = False

    @property
    def root_device(self) -> torch.device:
        """The device of this process: each process is given one."""
        assert self.parallel_devices is not None  # noqa: S101 - narrows for mypy
        return self.parallel_devices[0]

    def set_world_ranks(self) -> None:
        """Tell Lightning's own messages which process is the first."""
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
        """Make the optimizer, and begin with the weights of the first process."""
        super().setup(trainer)
        assert self.model is not None  # noqa: S101 - narrows for mypy
        for parameter in self.model.parameters():
            dist.broadcast(parameter.data, src=0)

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Leave the gradients as they are inside: more batches of the same optimizer step follow."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def post_backward(self, closure_loss: Tensor) -> None:
        """Sum the gradients, unless more of the step follow."""
        del closure_loss
        if self._waits:
            return
        assert self.lightning_module is not None  # noqa: S101 - narrows for mypy
        sum_gradients(
            [each for each in self.lightning_module.parameters() if each.requires_grad],
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
        """Wait until all processes are here."""
        del name
        if dist.is_initialized():
            dist.barrier()

    def broadcast(self, obj: T, src: int = 0) -> T:
        """Return what the process ``src`` has: Lightning asks for paths and truth values."""
        if not dist.is_initialized():
            return obj
        result: T = gather_json(obj, self.root_device)[src]
        return result

    def teardown(self) -> None:
        """Let go of the other processes: what follows training is for the first one alone."""
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
        parameters: Those that learn now, the same on all processes.
        whole: Those of them whose gradient is the whole one in each process already; their mean is taken.
    """
    parameters = list(parameters)
    if not parameters:
        return
    present = torch.tensor([each.grad is not None for each in parameters], dtype=torch.float32)
    present = present.to(parameters[0].device)
    dist.all_reduce(present)
    used = [each for each, count in zip(parameters, present.tolist(), strict=True) if count]
    for each in used:
        if each.grad is None:
            each.grad = torch.zeros_like(each)
    for bucket in _buckets(used):
        _sum_bucket(bucket)
    for each in whole:
        if each.grad is not None:
            each.grad /= dist.get_world_size()


def _sum_bucket(parameters: list[nn.Parameter]) -> None:
    gradients = [each.grad for each in parameters if each.grad is not None]
    if len(gradients) == 1 and gradients[0].is_contiguous():
        dist.all_reduce(gradients[0])
        return
    together = torch.cat([each.flatten() for each in gradients])
    dist.all_reduce(together)
    start = 0
    for gradient in gradients:
        gradient.copy_(together[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield the parameters in groups of one type and at most `BUCKET` numbers, a larger one by itself."""
    bucket: list[nn.Parameter] = []
    size = 0
    for each in parameters:
        if bucket and (size + each.numel() > BUCKET or each.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(each)
        size += each.numel()
    if bucket:
        yield bucket


def sum_over_processes(own: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, and change it to that."""
    dist.all_reduce(own)
    return own


def gather_json(value: Any, device: torch.device) -> list[Any]:
    """Return what each process has, in the order of their ranks.

    `torch.distributed.all_gather_object` would unpickle what another process sends, which can run code.

    Args:
        value: What JSON can hold, or a path, which becomes a string.
        device: The device of this process.
    """
    text = json.dumps(value, default=os.fspath).encode()
    own = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(device)
    lengths = _gathered(torch.tensor([len(own)], device=device))
    padded = torch.nn.functional.pad(own, (0, int(max(lengths)) - len(own)))
    texts = [row[: int(length)] for row, length in zip(_gathered(padded), lengths, strict=True)]
    return [json.loads(bytes(row.tolist())) for row in texts]


def _gathered(own: Tensor) -> list[Tensor]:
    """Return the tensors of all processes, which have one shape."""
    tensors = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(tensors, own)
    return tensors


def over_processes(losses: Mapping[str, Tensor], shares: Mapping[str, float] | None) -> dict[str, Tensor]:
    r"""Return each task's mean loss over the rows of all processes, the same number on each of them.

    .. math:: L = \sum_r \frac{n_r}{n} L_r

    Its gradient is that of this process's term alone: the sum over the processes is the gradient of ``L``.

    Args:
        losses: The mean loss of each task over this process's rows, ``L_r``, scalars.
        shares: ``n_r / n`` of each task; nothing where there is one process.
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
    """Tells Lightning what this process is; the processes are there already, and connected by other means."""

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
