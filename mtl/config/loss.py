"""The section for losses: each task's own, and how they are combined."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass

from mtl.base import schema
from mtl.base.schema import Count, Rate, Share

LossName = Literal["cross_entropy", "focal"]
"""The keys of `mtl.training.losses.LOSSES`."""
WeightingName = Literal["none", "balanced", "effective_number", "logit_adjustment"]
"""The keys of `mtl.training.losses.WEIGHTINGS`."""
Aggregation = Literal["upgrad", "pcgrad", "mgda", "aligned_mtl"]
"""The methods of TorchJD, which combine gradients instead of losses."""
Combine = Literal["sum", "weighted", "uncertainty", "dwa", "famo", Aggregation]
"""The keys of `mtl.training.combination.COMBINATIONS`."""
AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)


@dataclass(config=schema.STRICT)
class TaskLossConfig:
    """One task's loss; formulas and sources in `mtl.training.losses`."""

    kind: LossName
    weighting: WeightingName
    """What makes up for rare classes."""
    weighting_power: Annotated[float, Field(ge=0, le=1)]
    """``balanced``: exponent of the weights; 1 makes up for the whole imbalance, 0.5 for its square root."""
    beta: Share
    """``effective_number``: how slowly additional rows of a class lose weight; towards 1 it becomes ``balanced``."""
    tau: Annotated[float, Field(ge=0)]
    """``logit_adjustment``: factor of the log frequencies; 1 is consistent with the balanced error."""
    gamma: Annotated[float, Field(ge=0)]
    """``focal``: how much rows that are right already count less; 0 is cross-entropy."""
    label_smoothing: Share
    """Share of the target that is spread over all classes."""


@dataclass(config=schema.STRICT)
class UncertaintyConfig:
    """``uncertainty``: each task's log variance is learned."""

    rate: Rate
    """Learning rate of the log variances, which follows the schedule of the others."""


@dataclass(config=schema.STRICT)
class DwaConfig:
    """``dwa``: dynamic weight average."""

    temperature: Annotated[float, Field(gt=0)]
    """The higher, the more alike the weights."""
    window: Count | None
    """Batches over which losses are averaged before weights change; ``null``: an epoch."""


@dataclass(config=schema.STRICT)
class FamoConfig:
    """``famo``: fast adaptive multitask optimization."""

    rate: Rate
    """Learning rate of the weights' logits."""
    decay: Annotated[float, Field(ge=0)]
    """What draws the logits back to equal weights."""


@dataclass(config=schema.STRICT)
class LossConfig:
    """The tasks' losses, and how they become one; see `mtl.config.short_forms` for the short form."""

    combine: Combine
    weights: dict[str, Annotated[float, Field(gt=0)]]
    """``weighted``: factors of the tasks' losses in the sum; 1 for a task that is not named."""
    uncertainty: UncertaintyConfig
    dwa: DwaConfig
    famo: FamoConfig
    consistency: Annotated[float, Field(ge=0)]
    """R-Drop: weight of the divergence between two passes of a step's rows; 0: one pass."""
    default: TaskLossConfig
    tasks: dict[str, TaskLossConfig]

    def of(self, task: str) -> TaskLossConfig:
        """Return the loss of ``task``."""
        return self.tasks.get(task, self.default)
