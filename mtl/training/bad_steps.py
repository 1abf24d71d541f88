"""Steps whose loss or gradients are not finite: keep them out of weights and checkpoints, and report their rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mtl.base.errors import Problem, TrainingError, listed
from mtl.base.files import write_json
from mtl.data.batch import Batch
from mtl.data.problems import plural
from mtl.training.optimization import skip_step_if
from mtl.training.plan import RunPlan
from mtl.training.sharding import whole

FOLDER = "bad_steps"
MOST_FILES = 20
"""The most files of a run that skips; later steps are only counted."""
_USUAL_DECAY = 0.01
_USUAL_EPS = 1e-8

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BadStep:
    """An optimizer step that was left out."""

    step: int  # from 1
    epoch: int  # from 1
    losses: list[dict[str, float]]  # of each task in each accumulated batch
    norm: float  # of the gradients before clipping
    rows: dict[str, list[int]]  # of each task's training split
    in_a_row: int  # how many consecutive steps up to this one were left out
    number: int  # how many steps up to this one were left out since the start of training


_Rows = tuple[dict[str, Tensor], dict[str, Tensor]]
"""The rows of each task in a batch, and the loss of each."""


@dataclass(slots=True)
class _CheckedStep:
    """A checked step whose result has not been read from the device yet."""

    step: int
    epoch: int
    bad: Tensor
    norm: Tensor
    batches: list[_Rows]


@dataclass(slots=True)
class StepGuard:
    """Check each optimizer step before it is taken.

    With ``every`` = 1 the gradients of a bad step are dropped at once. This synchronises with the device in each step,
    which is free on a CPU but stalls a GPU. With a larger number the optimizer skips the step by a flag on its device,
    and the flags of several steps are read together in `inspect`. The weights are the same either way.

    Gradients in fp16 are checked by Lightning's gradient scaler, which skips steps until it has found its scale; only
    the loss is checked here. Its optimizer is not fused and cannot skip a step by a flag, and the scaler synchronises
    in each step anyway: a bad step is dropped at once, whatever ``every`` is.

    A finite gradient can still lead to weights that are not finite, if the learning rate is too high for the weight
    decay or Adam's denominator is too small. So weights are checked before each checkpoint is written.
    """

    reports: BadSteps
    network: nn.Module  # whose weights are checked with each bad step, in all processes
    every: int = 1  # after how many steps to read the flags
    scaled: bool = False  # whether gradients are scaled, as in ``16-mixed``
    in_a_row: int = 0  # how many steps were left out since the last good one
    left_out: int = 0  # how many steps were left out since the start of training
    sound: int = 0  # the number of steps when the weights were last checked and finite
    _batches: list[_Rows] = field(default_factory=list)
    _total: Tensor | None = None
    _checked: list[_CheckedStep] = field(default_factory=list)

    def record(self, batch: Batch, losses: Mapping[str, Tensor], total: Tensor) -> None:
        """Record a batch of the next step with its losses and their combination, scalars."""
        self._batches.append((batch.step_rows, {task: loss.detach() for task, loss in losses.items()}))
        self._total = total.detach() if self._total is None else self._total + total.detach()

    def check_step(self, optimizer: Optimizer, norm: Tensor, step: int, epoch: int) -> None:
        """Make the optimizer skip its next step if that is bad.

        ``norm`` is that of the gradients before clipping, a scalar; ``step`` and ``epoch`` count from 0.
        """
        total = norm.new_zeros(()) if self._total is None else self._total
        if not self.scaled:
            total = total + norm.to(total.device)  # finite only if both are
        checked = _CheckedStep(step + 1, epoch + 1, ~total.isfinite(), norm, self._batches)
        self._batches, self._total = [], None
        self._checked.append(checked)
        at_once = self.every == 1 or self.scaled
        if not at_once:
            skip_step_if(optimizer, checked.bad)
        elif checked.bad:
            optimizer.zero_grad(set_to_none=True)  # without gradients AdamW touches nothing
        if at_once or len(self._checked) >= self.every:
            self.inspect()

    def inspect(self) -> None:
        """Report the bad steps since the last call.

        Raises:
            TrainingError: The run is to stop, as it always does with weights that are not finite.
        """
        steps, self._checked = self._checked, []
        if not steps:
            return
        for step, bad in zip(steps, torch.stack([step.bad for step in steps]).tolist(), strict=True):
            self.in_a_row = self.in_a_row + 1 if bad else 0
            if bad:
                self.left_out += 1
                weights = {name: whole(value) for name, value in self.network.named_parameters()}
                if names := not_finite(weights):
                    raise self.reports.broken(names, self.sound, step.step - self.in_a_row)
                self.reports.left_out(_bad_step(step, self.in_a_row, self.left_out))

    def check_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Check that the weights of a checkpoint that is about to be saved are finite."""
        steps = checkpoint["global_step"]
        if names := not_finite(dict(_weights(checkpoint))):
            raise self.reports.broken(names, self.sound, steps - self.in_a_row)
        self.sound = steps

    def state_dict(self) -> dict[str, int]:
        """Return the counts for a resumed training, after `inspect`."""
        self.inspect()
        return {"in_a_row": self.in_a_row, "left_out": self.left_out}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore the counts; ``sound`` is the step of the checkpoint, since saved weights are finite."""
        self.in_a_row, self.left_out, self.sound = state["in_a_row"], state["left_out"], state["sound"]


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity.

    A finite sum has only finite terms, is the cheapest pass over a tensor, and all sums are read from the device at
    once. Only tensors whose sum is not finite, which may also be an overflow of finite terms, are checked by element.
    """
    floats = {name: value for name, value in tensors.items() if value.is_floating_point()}
    if not floats:
        return []
    device = next(iter(floats.values())).device
    sums = torch.stack([value.detach().sum().float().to(device) for value in floats.values()]).isfinite().tolist()
    doubtful = [name for name, finite in zip(floats, sums, strict=True) if not finite]
    return [name for name in doubtful if not floats[name].isfinite().all()]


def _weights(checkpoint: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a checkpoint, their averages, and the state of the optimizer."""
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


def _bad_step(step: _CheckedStep, in_a_row: int, number: int) -> BadStep:
    rows: dict[str, list[int]] = {}
    for batch, _ in step.batches:
        for task, indices in batch.items():
            rows.setdefault(task, []).extend(indices.tolist())
    losses = [{task: float(loss) for task, loss in of_tasks.items()} for _, of_tasks in step.batches]
    return BadStep(step.step, step.epoch, losses, float(step.norm), rows, in_a_row, number)


@dataclass(slots=True)
class BadSteps:
    """Report the bad steps of a run, and weights that are not finite after a good step."""

    plan: RunPlan

    def left_out(self, bad: BadStep) -> None:
        """Write the step's rows to ``bad_steps/step_<step>.json`` in the run folder.

        Raises:
            TrainingError: The run is to stop.
        """
        where = "its rows are not written to a file: there were many before it"
        if bad.number <= MOST_FILES:
            where = f"its rows are in {self._write(bad)}"
        settings = self.plan.config.callbacks.bad_steps
        if settings.action == "skip" and bad.in_a_row < settings.most_in_a_row:
            log.warning("step %d (epoch %d) left out: %s; %s", bad.step, bad.epoch, _reason(bad), where)
            return
        in_a_row = f", the last of {bad.in_a_row} in a row" if bad.in_a_row > 1 else ""
        raise TrainingError(
            Problem(
                f"step {bad.step} (epoch {bad.epoch})",
                f"{_reason(bad)}{in_a_row}; {where}",
                "a finite loss and finite gradients",
                self._choice(self._repairs()),
            )
        )

    def broken(self, names: list[str], sound: int, last: int) -> TrainingError:
        """Return the error for weights that are not finite after updates from finite gradients.

        One of the steps after ``sound``, up to ``last``, has caused it.
        """
        first = sound + 1
        return TrainingError(
            Problem(
                f"step {first}" if last <= first else f"one of the steps {first} to {last}",
                f"a finite gradient, but an update that left weights which are not: {listed(names, most=3)}",
                "finite weights; these are not saved",
                self._choice(self._repairs_of_updates()),
            )
        )

    def _repairs_of_updates(self) -> Iterator[str]:
        optimizer = self.plan.config.optimizer
        if optimizer.weight_decay > _USUAL_DECAY:
            yield f"optimizer.weight_decay={_USUAL_DECAY} in place of {optimizer.weight_decay:g}"
        if optimizer.eps < _USUAL_EPS:
            yield f"optimizer.eps={_USUAL_EPS:g} in place of {optimizer.eps:g}"

    def _write(self, bad: BadStep) -> Path:
        path = self.plan.folder / FOLDER / f"step_{bad.step}.json"
        if self.plan.process.rank:  # the first process writes the rows of all
            return path
        content = {
            "step": bad.step,
            "epoch": bad.epoch,
            "losses": [{task: str(loss) for task, loss in losses.items()} for losses in bad.losses],
            "gradient_norm": str(bad.norm),  # as text: JSON has no NaN
            "rows": list(self._rows(bad)),
        }
        write_json(path, content)
        return path

    def _rows(self, bad: BadStep) -> Iterator[dict[str, object]]:
        for task, indices in bad.rows.items():
            examples = self.plan.tasks[task].train
            lines = examples.lines
            for row in indices:
                place = {"task": task, "file": str(examples.path), "line": int(lines[row])}
                yield {**place, "label": examples.labels[row], "text": examples.texts[row]}

    def _repairs(self) -> Iterator[str]:
        config, precision = self.plan.config, self.plan.precision
        if not precision.startswith("32"):
            yield f"trainer.precision=32-true in place of {precision}"
        if not config.trainer.gradient_clip_val:
            yield "trainer.gradient_clip_val=5.0, which is off"
        if config.callbacks.bad_steps.action == "stop":
            yield "look into the rows; to continue without such steps: callbacks.bad_steps.action=skip"

    def _choice(self, repairs: Iterator[str]) -> str:
        lines = ["lower rates: learning_rates=… with smaller values, or more optimizer.warmup", *repairs]
        last = self.plan.folder / "checkpoints" / "last.ckpt"
        if last.is_file():
            lines.append(f"the last good state is in {last}")
        return "\n".join(["one of these:", *(f"      - {line}" for line in lines)])


def left_out_warnings(left_out: int) -> list[str]:
    """Return the warning of a report about steps that were left out."""
    if not left_out:
        return []
    steps = "1 step was" if left_out == 1 else f"{left_out} steps were"
    return [f"{steps} left out of training: loss or gradients were not finite. See {FOLDER}/ in the run folder."]


def _reason(bad: BadStep) -> str:
    wrong = [f"{task} {loss}" for losses in bad.losses for task, loss in losses.items() if not abs(loss) < float("inf")]
    if wrong:
        return f"a loss that is not finite: {listed(wrong)}"
    batches = plural(sum(map(len, bad.rows.values())), "row")
    return f"gradients that are not finite (norm {bad.norm}) of a finite loss over {batches}"
