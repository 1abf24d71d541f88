"""A training step: what is kept of its forward pass until the backward pass has run, and what the loggers get of it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.loggers.logger import Logger
from torch import Tensor

from mtl.data.batch import Batch


class Randomness:
    """The random state of dropout on a device at one moment, to repeat it for the same rows."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self._mps = torch.mps.get_rng_state() if device.type == "mps" else None

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same numbers again inside the block, and restore the random state after it."""
        outside = Randomness(self._device)
        self._restore()
        try:
            yield
        finally:
            outside._restore()

    def _restore(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)
        if self._mps is not None:
            torch.mps.set_rng_state(self._mps)


@dataclass(slots=True)
class ForwardPass:
    """A training step between its forward and its backward pass."""

    batch: Batch
    losses: dict[str, Tensor]  # of each task, with its graph
    embeddings: list[Tensor]  # ``(B, H)``, of each pass through the encoder, with their graph
    randomness: Randomness | None  # that before its dropout, if it will be computed again


class StepLog:
    """Figures of one optimizer step, each the mean over the accumulated batches that have it."""

    def __init__(self) -> None:
        self.step: int | None = None  # the optimizer step, from 0, whose figures have not been written yet
        self.figures: dict[str, Tensor | float] = {}
        self._batches: Counter[str] = Counter()

    def add(self, step: int, figures: Mapping[str, Tensor]) -> None:
        """Take the figures of a batch into the means of its step; those of an earlier step are dropped."""
        if self.step != step:
            self.step, self.figures, self._batches = step, {}, Counter()
        self._batches.update(figures.keys())
        for name, value in figures.items():
            before = self.figures.get(name, 0.0)
            self.figures[name] = before + (value - before) / self._batches[name]

    def write(self, loggers: Sequence[Logger], epoch: int) -> None:
        """Give the figures to the loggers, with a single synchronisation with the device.

        Lightning's `log` would repeat the last values of tasks without rows in this step until the epoch ends.
        """
        tensors = {name: value for name, value in self.figures.items() if isinstance(value, Tensor)}
        figures: dict[str, Any] = dict(self.figures)
        if tensors:
            values = torch.stack([value.float() for value in tensors.values()]).tolist()
            figures |= dict(zip(tensors, values, strict=True))
        for logger in loggers:
            logger.log_metrics({**figures, "epoch": epoch}, step=self.step)
            logger.save()
        self.step = None
