"""What a training is remembered by, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EpochFigures:
    """The figures of one epoch.

    Attributes:
        epoch: Its number, from 1.
        train_loss: The mean of the combined loss over its steps.
        val_macro_f1: The macro-F1 of each task in the last validation of the epoch; empty if there was none.
    """

    epoch: int
    train_loss: float
    val_macro_f1: Mapping[str, float] = field(default_factory=dict)
