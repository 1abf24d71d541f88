"""Handle steps whose loss or gradients are not finite: write their rows to a file, then stop or skip the step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mtl.base.errors import Problem, TrainingError, listed
from mtl.base.files import write_json
from mtl.data.problems import plural
from mtl.training.guard import BadStep, BrokenWeights, not_finite
from mtl.training.plan import RunPlan

FOLDER = "bad_steps"
MOST_FILES = 20
"""The most files of a run that skips; later steps are only counted."""
_USUAL_DECAY = 0.01
_USUAL_EPS = 1e-8

log = logging.getLogger(__name__)


@dataclass(slots=True)
class BadSteps:
    """Report the bad steps of a run, and weights that are not finite after a good step."""

    plan: RunPlan

    def __call__(self, bad: BadStep | BrokenWeights) -> None:
        """Write the step's rows to ``bad_steps/step_<step>.json`` in the run folder.

        Raises:
            TrainingError: The run is to stop, as it always does with broken weights.
        """
        if isinstance(bad, BrokenWeights):
            raise self._broken(bad)
        if names := not_finite(dict(self.plan.start.network.named_parameters())):
            raise self._broken(BrokenWeights(bad.sound + 1, max(bad.sound + 1, bad.step - bad.in_a_row), names))
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
                _choice(self._repairs()),
            )
        )

    def _broken(self, broken: BrokenWeights) -> TrainingError:
        first, last = broken.first, broken.last
        return TrainingError(
            Problem(
                f"step {last}" if first == last else f"one of the steps {first} to {last}",
                f"a finite gradient, but an update that left weights which are not: {listed(broken.names, most=3)}",
                "finite weights; these are not saved",
                _choice(self._repairs_of_updates()),
            )
        )

    def _repairs_of_updates(self) -> Iterator[str]:
        yield "lower rates: learning_rates=… with smaller values, or more optimizer.warmup"
        optimizer = self.plan.config.optimizer
        if optimizer.weight_decay > _USUAL_DECAY:
            yield f"optimizer.weight_decay={_USUAL_DECAY} in place of {optimizer.weight_decay:g}"
        if optimizer.eps < _USUAL_EPS:
            yield f"optimizer.eps={_USUAL_EPS:g} in place of {optimizer.eps:g}"
        yield from self._last_good_state()

    def _last_good_state(self) -> Iterator[str]:
        last = self.plan.folder / "checkpoints" / "last.ckpt"
        if last.is_file():
            yield f"the last good state is in {last}"

    def _write(self, bad: BadStep) -> Path:
        path = self.plan.folder / FOLDER / f"step_{bad.step}.json"
        if self.plan.place.rank:  # the first process writes the rows of all
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
                example = examples[row]
                yield {
                    "task": task,
                    "file": str(examples.path),
                    "line": int(lines[row]),
                    "label": example.label,
                    "text": example.text,
                }

    def _repairs(self) -> Iterator[str]:
        config, precision = self.plan.config, self.plan.precision
        yield "lower rates: learning_rates=… with smaller values, or more optimizer.warmup"
        if not precision.startswith("32"):
            yield f"trainer.precision=32-true in place of {precision}"
        if not config.trainer.gradient_clip_val:
            yield "trainer.gradient_clip_val=5.0, which is off"
        if config.callbacks.bad_steps.action == "stop":
            yield "look into the rows; to go on without such steps: callbacks.bad_steps.action=skip"
        yield from self._last_good_state()


def _choice(repairs: Iterator[str]) -> str:
    return "\n".join(["one of these:", *(f"      - {repair}" for repair in repairs)])


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
