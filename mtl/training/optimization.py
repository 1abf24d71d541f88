"""The optimizer and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from mtl.training.learning_rates import ParameterGroup

Schedule = Literal["linear", "cosine", "constant"]


def build_adamw(
    groups: Sequence[ParameterGroup], *, betas: tuple[float, float], eps: float, fused: bool = True
) -> AdamW:
    """Return AdamW (Loshchilov & Hutter 2019) over the groups.

    Args:
        groups: Every trainable parameter, each once.
        betas: Decay of the averages of the gradient and of its square.
        eps: Added to the denominator.
        fused: One pass over all parameters; not possible together with the gradient scaling of ``16-mixed``.
    """
    named = [
        {
            "params": list(group.parameters.values()),
            "lr": group.rate,
            "weight_decay": group.weight_decay,
            "name": group.name,
        }
        for group in groups
    ]
    return AdamW(named, betas=betas, eps=eps, fused=fused)


def rate_factor(schedule: Schedule, total_steps: int, warmup: float) -> Callable[[int], float]:
    """Return the function from a step (from 0) to the share of the peak rate that it learns with.

    The share rises linearly over the warm-up, reaches 1 with its last step, and falls to 0 behind the last step of
    training: with ``constant`` it stays 1.

    Args:
        schedule: How the rate falls.
        total_steps: Optimizer steps of the whole training.
        warmup: Steps of the warm-up, a number or (below 1) a share of ``total_steps``.
    """
    rising = min(total_steps, round(warmup * total_steps) if warmup < 1 else int(warmup))
    falling = max(1, total_steps - rising)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        done = min(1.0, (step - rising) / falling)
        if schedule == "linear":
            return 1.0 - done
        return 0.5 * (1.0 + math.cos(math.pi * done)) if schedule == "cosine" else 1.0

    return factor


def build_schedule(optimizer: torch.optim.Optimizer, schedule: Schedule, total_steps: int, warmup: float) -> LambdaLR:
    """Return the scheduler of `rate_factor` for every group of the optimizer."""
    return LambdaLR(optimizer, rate_factor(schedule, total_steps, warmup))
