"""What the processes of a training tell each other in a step, and how much of it is hidden behind the backward pass.

One of several processes that torchrun starts; the first one prints the medians as JSON. Three things are timed in turn,
with the same rows: a step whose gradients are averaged during the backward pass, one without (``no_sync``), and the
averages alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from mtl import SentenceEncoder

BUCKET = 25 * 2**20
"""Bytes that `DistributedDataParallel` averages together by default."""


def main() -> None:
    """Time the three of them in turn."""
    parser = argparse.ArgumentParser(prog="communication", description=__doc__)
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--rows", type=int, default=32, help="rows of each process in a step")
    parser.add_argument("--tokens", type=int, default=24, help="tokens of a row")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    figures = measure(options)
    if dist.get_rank() == 0:
        print(json.dumps(figures))
    # After `measure` has dropped the model: if that were the last to hold the group, it would wait for Gloo's threads
    # while they wait for the GIL.
    dist.destroy_process_group()


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Return the bytes that are averaged, the shape of a step, and the median seconds of each of the three."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", dist.get_rank() % torch.cuda.device_count()) if cuda else torch.device("cpu")
    encoder = SentenceEncoder.from_pretrained(options.backbone, device=str(device)).encoder.train()
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    size = 4 * sum(parameter.numel() for parameter in parameters)
    model = DistributedDataParallel(encoder, find_unused_parameters=True)  # as `mtl.training.parallel` has it
    ids = torch.randint(5, encoder.config.vocab_size, (options.rows, options.tokens), device=device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    pieces = [torch.zeros(min(BUCKET, size - at) // 4, device=device) for at in range(0, size, BUCKET)]

    def step(*, averaged: bool) -> None:
        with nullcontext() if averaged else model.no_sync():
            loss: Tensor = model(ids, mask).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
        for parameter in parameters:
            parameter.grad = None

    def averages() -> None:
        for work in [dist.all_reduce(piece, async_op=True) for piece in pieces]:
            work.wait()

    actions: dict[str, Callable[[], None]] = {
        "step": lambda: step(averaged=True),
        "compute": lambda: step(averaged=False),
        "averages": averages,
    }
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for at in range(options.rounds + 2):
        for name, action in actions.items():
            dist.barrier()
            start = time.perf_counter()
            action()
            if cuda:
                torch.cuda.synchronize()
            if at > 1:  # two rounds to warm up
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {"bytes": size, "rows": options.rows, "tokens": options.tokens, **medians}


if __name__ == "__main__":
    main()
