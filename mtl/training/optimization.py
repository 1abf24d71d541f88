"""The optimizer and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mtl.training.learning_rates import COMBINATION, ParameterGroup

Schedule = Literal["linear", "cosine", "constant"]
_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_


def build_adamw(
    groups: Sequence[ParameterGroup],
    sharded: Mapping[str, nn.Parameter] | None = None,
    *,
    betas: tuple[float, float],
    eps: float,
    fused: bool = True,
) -> AdamW:
    """Return AdamW (Loshchilov & Hutter 2019) over the groups.

    Args:
        groups: Every trainable parameter, each once.
        sharded: The parameters that have taken the place of some of them, by name.
        betas: As of `torch.optim.AdamW`.
        eps: As of `torch.optim.AdamW`.
        fused: One pass over all parameters; not possible with the gradient scaling of ``16-mixed``, or sharded ones.
    """
    named = [
        {
            "params": [(sharded or {}).get(name, parameter) for name, parameter in group.parameters.items()],
            "lr": group.rate,
            "weight_decay": group.weight_decay,
            "name": group.name,
        }
        for group in groups
    ]
    optimizer = AdamW(named, betas=betas, eps=eps, fused=fused)
    if fused:
        optimizer.register_step_post_hook(_forget_scale)
    return optimizer


def gradient_norm(optimizer: Optimizer) -> Tensor:
    """Return the total norm of all gradients except those of a combination of losses, a scalar; 0 without any."""
    counted = [group for group in optimizer.param_groups if group.get("name") != COMBINATION]
    gradients = [parameter.grad for group in counted for parameter in group["params"] if parameter.grad is not None]
    norms = [nn.utils.get_total_norm(alike) for alike in _alike(gradients)]
    norms = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))


def _alike(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Return whole tensors and sharded ones apart, as PyTorch's functions over many tensors take them."""
    of_kind: dict[bool, list[Tensor]] = {}
    for tensor in tensors:
        of_kind.setdefault(isinstance(tensor, DTensor), []).append(tensor)
    return list(of_kind.values()) or [[]]


def clip_values(optimizer: Optimizer, limit: float) -> None:
    """Clip every number of the gradients to ``-limit`` to ``limit``."""
    for parameters in _alike(parameter for group in optimizer.param_groups for parameter in group["params"]):
        nn.utils.clip_grad_value_(parameters, limit)


def clip_norm(optimizer: Optimizer, limit: float) -> Tensor:
    """Clip the gradients to a total norm of ``limit``, as `torch.nn.utils.clip_grad_norm_` does.

    A fused AdamW of `build_adamw` scales them in its own pass: it divides by ``grad_scale``, which PyTorch provides for
    fp16 gradients (``torch.amp.GradScaler``), and leaves the result in ``grad``; until then they are unclipped. A
    separate pass over all gradients takes a twentieth of a training step on a CPU.

    The norm is that of the network's gradients, and is returned as before clipping, a scalar. Those of a combination of
    losses (`COMBINATION`) are scaled with them but not counted: its few gradients, of about 1 each, would shrink those
    of the network.
    """
    norm = gradient_norm(optimizer)
    fused = isinstance(optimizer, AdamW) and all(group["fused"] for group in optimizer.param_groups)
    if fused and norm.device.type in {"cpu", "cuda"}:  # untested on MPS
        optimizer.grad_scale = ((norm + _EPS) / limit).clamp(min=1.0)  # type: ignore[attr-defined]
    else:
        for parameters in _alike(parameter for group in optimizer.param_groups for parameter in group["params"]):
            nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def skip_step_if(optimizer: Optimizer, flag: Tensor) -> None:
    """Make the next step of a fused AdamW of `build_adamw` change nothing if a flag on its device is set.

    It uses ``found_inf``, which PyTorch provides for fp16 gradients as it does ``grad_scale``, see `clip_norm`.
    """
    optimizer.found_inf = flag.float()  # type: ignore[attr-defined]


def _forget_scale(optimizer: Optimizer, *_: object) -> None:
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.found_inf = None  # type: ignore[attr-defined]


def rate_factor(schedule: Schedule, total_steps: int, warmup: float) -> Callable[[int], float]:
    """Return the function from a step (from 0) to its share of the peak rate.

    The share rises linearly over the warm-up (steps, or below 1 a share of all), reaches 1 in its last step, and would
    reach 0 after the last step of training; with ``constant`` it stays 1.
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


def stage_factor(whole: Callable[[int], float], start: int, rising: int) -> Callable[[int], float]:
    """Return ``whole`` times the warm-up of a group that unfreezes at step ``start``.

    It rises linearly over ``rising`` steps and reaches 1 in the last of them. A group that is trained from the start
    has only the warm-up of the whole training.
    """

    def factor(step: int) -> float:
        risen = 1.0 if not start or step >= start + rising else max(0.0, (step - start + 1) / rising)
        return whole(step) * risen

    return factor


def build_schedule(
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    total_steps: int,
    warmup: float,
    starts: Sequence[int] | None = None,
    stage_warmup: float = 0,
) -> LambdaLR:
    """Return the scheduler of `rate_factor`, and of `stage_factor` for groups that unfreeze later.

    ``starts`` are the first steps in which the groups of the optimizer are trained; ``stage_warmup`` is the warm-up of
    those that unfreeze later, like ``warmup`` a number of steps or (below 1) a share of all.
    """
    whole = rate_factor(schedule, total_steps, warmup)
    rising = round(stage_warmup * total_steps) if stage_warmup < 1 else int(stage_warmup)
    if not rising or starts is None:
        return LambdaLR(optimizer, whole)
    return LambdaLR(optimizer, [stage_factor(whole, start, rising) for start in starts])
