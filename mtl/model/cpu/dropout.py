"""Dropout for the CPU: the same distribution from a quarter of the random numbers.

PyTorch draws one number for each element, one after the other; in the training of a small encoder that takes longer
than its layer norms. Here one draw of 64 bits decides about four elements, 16 bits each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_LEVELS = 2**16


def dropout_noise(x: Tensor, p: float, rows: int | None = None) -> Tensor:
    """Return what to multiply ``x`` with: 0 with probability ``p``, to 1/65,536, else the factor that keeps the mean.

    Args:
        x: A tensor on the CPU, whose shape and dtype the noise has.
        p: From 0 to below 1.
        rows: How many of its rows, from the first, are to have noise; the others get 0, without a random number.
    """
    noise = torch.empty(x.shape, dtype=x.dtype)
    drawn = noise if rows is None else noise[:rows]
    if drawn is not noise:
        noise[rows:] = 0.0
    count = drawn.numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    levels = draws.view(torch.int16)[:count].view(drawn.shape)
    kept = min(max(1, round((1 - p) * _LEVELS)), _LEVELS - 1)  # of the 65,536 levels; their limit fits int16
    torch.lt(levels, kept - _LEVELS // 2, out=drawn)
    drawn.mul_(_LEVELS / kept)
    return noise


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        noise = dropout_noise(x, p)
        ctx.save_for_backward(noise)
        return x * noise

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (noise,) = ctx.saved_tensors
        return gradient * noise, None


def fast_dropout(x: Tensor, p: float) -> Tensor:
    """Set each element of ``x`` to 0 with probability ``p``, to 1/65,536, and scale the others so that the mean stays.

    Off the CPU PyTorch's own dropout is taken.
    """
    if p <= 0:
        return x
    if p >= 1 or x.device.type != "cpu" or x.dtype == torch.float64:
        return nn.functional.dropout(x, p)
    dropped: Tensor = _Dropout.apply(x, p)  # type: ignore[no-untyped-call]
    return dropped


class FastDropout(nn.Dropout):
    """``nn.Dropout`` that draws its random numbers as `fast_dropout` does."""

    def forward(self, input: Tensor) -> Tensor:
        """Drop in training mode, else return the input."""
        return fast_dropout(input, self.p) if self.training else input


def use_fast_dropout(module: nn.Module) -> None:
    """Turn every ``nn.Dropout`` below ``module`` into a `FastDropout`, in place."""
    for part in module.modules():
        if type(part) is nn.Dropout and not part.inplace:
            part.__class__ = FastDropout
