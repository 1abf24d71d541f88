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
"""Measured steps below which a mean says nothing."""
_FEEBLE = 0.05  # a mean cosine below which directions are as good as unrelated
_QUANTILE = 1.96  # of the normal distribution, for 95 %


@dataclass(frozen=True, slots=True)
class Norm:
    """How hard a task pulls: the norm of the gradient of its loss at the embeddings of its rows.

    Attributes:
        mean: Over the measured steps.
        deviation: Over the same, 0 for one step.
    """

    mean: Real
    deviation: Real


@dataclass(frozen=True, slots=True)
class Agreement:
    """The cosine between the gradients of two tasks.

    Attributes:
        first: One task.
        second: The other.
        steps: Measured steps with rows of both.
        mean: Mean cosine, from -1 to 1.
        deviation: Its standard deviation over the steps, 0 for one step.
        negative: The share of steps with a cosine below 0.
    """

    first: str
    second: str
    steps: Annotated[int, Field(strict=True, ge=1)]
    mean: Real
    deviation: Real
    negative: Real

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean, as if the steps were independent (normal approximation)."""
        half = _QUANTILE * self.deviation / math.sqrt(self.steps)
        return self.mean - half, self.mean + half

    @property
    def verdict(self) -> str:
        """What the figures say, in a few words."""
        low, high = self.interval
        if self.steps < FEWEST:
            return f"cannot be judged by {self.steps} measured steps ({FEWEST} are the least)"
        if low <= 0 <= high:
            return "neither fight nor help each other, as far as these steps tell"
        if abs(self.mean) < _FEEBLE:
            return "hardly touch each other"
        return "fight: they pull in opposite directions" if self.mean < 0 else "help each other: they pull the same way"


@dataclass(frozen=True, slots=True)
class GradientFigures:
    """The gradients of the tasks over a training.

    Attributes:
        layer: Where cosines were taken: the highest layer of the encoder that learns.
        steps: Measured steps.
        norms: Of each task.
        agreements: Of each pair of tasks that had rows in the same steps.
    """

    layer: str
    steps: Natural
    norms: Mapping[str, Norm]
    agreements: Sequence[Agreement]


def summarised(
    layer: str,
    norms: Mapping[str, Sequence[float]],
    cosines: Mapping[tuple[str, str], Sequence[float]],
    steps: int,
) -> GradientFigures:
    """Return the figures of measured steps.

    Args:
        layer: Where cosines were taken.
        norms: For each task the norms of the steps with rows of it.
        cosines: For each pair of tasks the cosines of the steps with rows of both.
        steps: Measured steps.
    """
    return GradientFigures(
        layer,
        steps,
        {task: Norm(statistics.fmean(values), _deviation(values)) for task, values in norms.items() if values},
        [
            Agreement(
                first=pair[0],
                second=pair[1],
                steps=len(values),
                mean=statistics.fmean(values),
                deviation=_deviation(values),
                negative=sum(value < 0 for value in values) / len(values),
            )
            for pair, values in cosines.items()
            if values
        ],
    )


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def sentences(figures: GradientFigures) -> Iterator[str]:
    """Yield what the figures say, one sentence for each pair of tasks and one on how hard each task pulls.

    Args:
        figures: What was measured.
    """
    for each in figures.agreements:
        low, high = each.interval
        spread = f"Mean cosine {each.mean:+.2f} ± {each.deviation:.2f}"
        sure = f"95 % interval of the mean {low:+.2f} to {high:+.2f}"
        below = f"below 0 in {100 * each.negative:.0f} % of {each.steps:,} measured steps"
        yield _typeset(f"{each.first} and {each.second} {each.verdict}. {spread} ({sure}), {below}.")
    if figures.norms:
        pulls = ", ".join(f"{task} {norm.mean:.3g} ± {norm.deviation:.2g}" for task, norm in figures.norms.items())
        yield _typeset(f"Gradient norm at the embeddings: {pulls}.")


def method(figures: GradientFigures) -> str:
    """Return how the figures were made and what they are good for."""
    return (
        f"Cosine of the gradients of two tasks' losses in {figures.layer}, the highest layer of the encoder that "
        "learns, where both tasks leave their mark first; ± is the standard deviation over steps, of which each has "
        "other rows. Tasks that fight may gain by another loss.combine (uncertainty, famo, upgrad) or by being trained "
        "alone (task=<name>); what sharing costs a task in the end is what python -m mtl.compare tells."
    )


def _typeset(text: str) -> str:
    """Return the text with true minus signs before digits."""
    return text.replace(" -", " −")
