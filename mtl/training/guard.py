"""Keep NaN and infinity out of weights and checkpoints, and tell which step they came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mtl.data.batch import Batch
from mtl.training.optimization import does_nothing_if, is_scaled


@dataclass(frozen=True, slots=True)
class BadStep:
    """An optimizer step that was left out.

    Attributes:
        step: Its number, from 1.
        epoch: Its epoch, from 1.
        losses: The loss of each task, of each batch whose gradients make up the step.
        norm: The norm of its gradients before clipping.
        rows: The rows of each task's training split that it was made of.
        in_a_row: How many steps up to this one were left out without a good one between.
        number: How many were left out up to this one, since the beginning of training.
        sound: How many optimizer steps were done when the weights were last looked at and finite.
    """

    step: int
    epoch: int
    losses: list[dict[str, float]]
    norm: float
    rows: dict[str, list[int]]
    in_a_row: int
    number: int
    sound: int = 0


@dataclass(frozen=True, slots=True)
class BrokenWeights:
    """Weights that are not finite after the update of a finite gradient, found before they were saved.

    Attributes:
        first: The first step, from 1, that can have done it.
        last: The last one.
        names: What is not finite.
    """

    first: int
    last: int
    names: list[str]


_Rows = tuple[dict[str, Tensor], dict[str, Tensor]]
"""The rows of each task in a batch, and the loss of each."""


@dataclass(slots=True)
class _Judged:
    """What a step leaves behind until somebody looks, all tensors still on their device."""

    step: int
    epoch: int
    bad: Tensor
    norm: Tensor
    batches: list[_Rows]


@dataclass(slots=True)
class StepGuard:
    """Judges each optimizer step before it is done.

    With ``every`` = 1 the gradients of a bad step are dropped at once. That asks the device for an answer in each step:
    nothing on a CPU, while a GPU would run dry. With a greater number the optimizer itself passes the step over where
    the flag on its device says so, and the answers of several steps are asked for together: `inspect`. The weights are
    the same either way.

    Gradients in fp16 are judged by Lightning's gradient scaler, which passes steps over until it has found its scale;
    there only the loss counts here. Its optimizer is not fused and cannot pass a step over by itself, and the scaler
    asks the device in each step anyway: with it a bad step is dropped at once, whatever ``every`` is.

    A finite gradient can still make weights that are not: a rate that is too high for the weight decay does, or a
    denominator of Adam's that is too small. Weights are looked at once for each checkpoint, before it is written.

    Args:
        report: Told of each bad step, in order, and of broken weights; what it raises ends the training.
        every: After how many steps to look.

    Attributes:
        in_a_row: How many steps were left out since the last good one.
        left_out: How many were left out since the beginning of training.
        sound: How many steps were done when the weights were last looked at and finite.
    """

    report: Callable[[BadStep | BrokenWeights], None]
    every: int = 1
    in_a_row: int = 0
    left_out: int = 0
    sound: int = 0
    _batches: list[_Rows] = field(default_factory=list)
    _total: Tensor | None = None
    _judged: list[_Judged] = field(default_factory=list)

    def saw(self, batch: Batch, losses: Mapping[str, Tensor], total: Tensor) -> None:
        """Note a batch of the step to come, its losses and what they combine to, scalars."""
        self._batches.append((batch.step_rows, {task: loss.detach() for task, loss in losses.items()}))
        self._total = total.detach() if self._total is None else self._total + total.detach()

    def judge(self, optimizer: Optimizer, norm: Tensor, step: int, epoch: int) -> None:
        """Make the optimizer's next step do nothing if it is bad.

        Args:
            optimizer: It, with the gradients of the step.
            norm: Their norm, a scalar, before clipping.
            step: Optimizer steps that were done before.
            epoch: The epoch, from 0.
        """
        total = norm.new_zeros(()) if self._total is None else self._total
        judged = total if is_scaled(optimizer) else total + norm.to(total.device)  # both finite, or the sum is not
        found = _Judged(step + 1, epoch + 1, ~judged.isfinite(), norm, self._batches)
        self._batches, self._total = [], None
        self._judged.append(found)
        if self.every == 1 or is_scaled(optimizer):  # the scaler asks the device in each step, too
            if found.bad:
                optimizer.zero_grad(set_to_none=True)  # without gradients AdamW touches nothing
            self.inspect()
            return
        does_nothing_if(optimizer, found.bad)
        if len(self._judged) >= self.every:
            self.inspect()

    def inspect(self) -> None:
        """Look at what was judged since the last time, and report what was bad."""
        judged, self._judged = self._judged, []
        if not judged:
            return
        answers = torch.stack([each.bad for each in judged]).tolist()
        for each, bad in zip(judged, answers, strict=True):
            self.in_a_row = self.in_a_row + 1 if bad else 0
            if bad:
                self.left_out += 1
                self.report(_told(each, self.in_a_row, self.left_out, self.sound))

    def check_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Look at what is about to be saved, and report it if it is not finite."""
        steps = checkpoint["global_step"]
        if names := not_finite(dict(_weights(checkpoint))):
            self.report(BrokenWeights(self.sound + 1, max(self.sound + 1, steps - self.in_a_row), names))
        self.sound = steps

    def state_dict(self) -> dict[str, int]:
        """Return what a resumed training has to know; what waits to be looked at is looked at first."""
        self.inspect()
        return {"in_a_row": self.in_a_row, "left_out": self.left_out}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take what `state_dict` returned, and under ``sound`` the step of the checkpoint: what is saved is finite."""
        self.in_a_row, self.left_out, self.sound = state["in_a_row"], state["left_out"], state["sound"]


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity.

    A finite sum has finite terms only. It is the cheapest pass over a tensor, and the device is asked once for all of
    them; only a tensor whose sum is not finite, which may be too large a sum of finite terms, is looked at again.
    """
    floats = {name: value for name, value in tensors.items() if value.is_floating_point()}
    if not floats:
        return []
    device = next(iter(floats.values())).device
    sums = torch.stack([value.detach().sum().float().to(device) for value in floats.values()]).isfinite().tolist()
    doubtful = [name for name, finite in zip(floats, sums, strict=True) if not finite]
    return [name for name in doubtful if not floats[name].isfinite().all()]


def _weights(checkpoint: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield what a checkpoint holds of the weights: they themselves, their averages, and the optimizer's."""
    for name, value in checkpoint["state_dict"].items():
        yield name.removeprefix("network."), value
    for state in checkpoint.get("callbacks", {}).values():
        for name, value in state.get("averages", {}).items():
            yield f"average of {name}", value
    for optimizer in checkpoint.get("optimizer_states", []):
        for number, state in optimizer["state"].items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    yield f"{name} {number} of the optimizer", value


def _told(judged: _Judged, in_a_row: int, number: int, sound: int) -> BadStep:
    rows: dict[str, list[int]] = {}
    for batch, _ in judged.batches:
        for task, indices in batch.items():
            rows.setdefault(task, []).extend(indices.tolist())
    losses = [{task: float(loss) for task, loss in found.items()} for _, found in judged.batches]
    return BadStep(judged.step, judged.epoch, losses, float(judged.norm), rows, in_a_row, number, sound)
