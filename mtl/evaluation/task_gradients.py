"""Whether the gradients of the tasks agree: the record of what was measured, and its interpretation in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from mtl.evaluation.records import Natural, Real

FEWEST = 10
"""Measured steps below which a mean tells nothing."""
_WEAK = 0.05  # a mean cosine below which directions count as unrelated
_QUANTILE = 1.96  # of the normal distribution, for 95 %


@dataclass(frozen=True, slots=True)
class Norm:
    """The norm of the gradient of a task's loss at the embeddings of its rows."""

    mean: Real  # mean over the measured steps
    deviation: Real  # standard deviation over them, 0 for one step


@dataclass(frozen=True, slots=True)
class Agreement:
    """The cosine between the gradients of two tasks."""

    first: str
    second: str
    steps: Annotated[int, Field(strict=True, ge=1)]  # measured steps with rows of both
    mean: Real  # mean cosine, from -1 to 1
    deviation: Real  # its standard deviation over the steps, 0 for one step
    negative: Real  # the share of steps with a cosine below 0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean, as if the steps were independent (normal approximation)."""
        half = _QUANTILE * self.deviation / math.sqrt(self.steps)
        return self.mean - half, self.mean + half

    @property
    def verdict(self) -> str:
        """The interpretation, in a few words."""
        low, high = self.interval
        if self.steps < FEWEST:
            return f"cannot be judged by {self.steps} measured steps ({FEWEST} are the least)"
        if low <= 0 <= high:
            return "neither fight nor help each other, as far as these steps tell"
        if abs(self.mean) < _WEAK:
            return "hardly touch each other"
        return "fight: they pull in opposite directions" if self.mean < 0 else "help each other: they pull the same way"


@dataclass(frozen=True, slots=True)
class GradientFigures:
    """The gradients of the tasks, measured during training."""

    layer: str  # the layer whose gradients were compared: the highest trained one of the encoder
    steps: Natural  # measured steps
    norms: Mapping[str, Norm]  # the gradient norm of each task
    agreements: Sequence[Agreement]  # the cosine for each pair of tasks with rows in the same steps


def summarised(
    layer: str,
    norms: Mapping[str, Sequence[float]],
    cosines: Mapping[tuple[str, str], Sequence[float]],
    steps: int,
) -> GradientFigures:
    """Summarize measured steps: the norms of each task, and the cosines of each pair of tasks in steps with both."""
    return GradientFigures(
        layer,
        steps,
        {task: Norm(statistics.fmean(values), _deviation(values)) for task, values in norms.items() if values},
        [_agreement(*pair, values) for pair, values in cosines.items() if values],
    )


def _agreement(first: str, second: str, cosines: Sequence[float]) -> Agreement:
    negative = sum(value < 0 for value in cosines) / len(cosines)
    return Agreement(first, second, len(cosines), statistics.fmean(cosines), _deviation(cosines), negative)


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def sentences(figures: GradientFigures) -> Iterator[str]:
    """Yield one sentence for each pair of tasks, and one with the gradient norm of each task."""
    for pair in figures.agreements:
        low, high = pair.interval
        mean = f"Mean cosine {pair.mean:+.2f} ± {pair.deviation:.2f}"
        interval = f"95 % interval of the mean {low:+.2f} to {high:+.2f}"
        below = f"below 0 in {100 * pair.negative:.0f} % of {pair.steps:,} measured steps"
        yield _typeset(f"{pair.first} and {pair.second} {pair.verdict}. {mean} ({interval}), {below}.")
    if figures.norms:
        norms = ", ".join(f"{task} {norm.mean:.3g} ± {norm.deviation:.2g}" for task, norm in figures.norms.items())
        yield _typeset(f"Gradient norm at the embeddings: {norms}.")


def method(figures: GradientFigures) -> str:
    """Return how the cosines were measured and how to act on them."""
    return (
        f"Cosine of the gradients of two tasks' losses in {figures.layer}, the highest layer of the encoder that "
        "is trained; ± is the standard deviation over steps, which all have different rows. Tasks that fight may gain "
        "from another loss.combine (uncertainty, famo, upgrad) or from training alone (task=<name>); "
        "python -m mtl.compare tells what sharing the encoder costs a task in the end."
    )


def _typeset(text: str) -> str:
    """Return the text with true minus signs before digits."""
    return text.replace(" -", " −")
