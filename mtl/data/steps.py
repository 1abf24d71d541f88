"""Which optimizer step a batch of training belongs to: what a schedule by steps is looked up with."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OptimizerSteps:
    """How the batches of training become optimizer steps.

    As Lightning counts them: a step takes ``accumulate`` batches, and the last step of an epoch what is left of them.

    Attributes:
        batches: Batches of an epoch that training takes.
        accumulate: Batches whose gradients a step sums up.
    """

    batches: int
    accumulate: int = 1

    @property
    def per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return math.ceil(self.batches / self.accumulate)

    def of(self, epoch: int, batch: int) -> int:
        """Return the step, over all epochs, that a batch belongs to; all numbers from 0."""
        return epoch * self.per_epoch + batch // self.accumulate
