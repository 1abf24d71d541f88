"""LightningModules around the small networks, and what they log without a trainer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mtl.training.bad_steps import BadSteps, StepGuard
from mtl.training.combination import Combination
from mtl.training.freezing import FreezePlan
from mtl.training.learning_rates import COMBINATION, ParameterGroup, parameter_groups, uniform_rates
from mtl.training.losses import TaskLosses
from mtl.training.module import MultiTaskModule
from mtl.training.optimization import build_adamw, build_schedule
from tests.support.networks import TASKS, network

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pytest

    from mtl.model.network import MultiTaskNetwork


def module(
    folder: Path,
    plan: FreezePlan | None = None,
    *,
    losses: TaskLosses | None = None,
    combination: Combination | None = None,
    dropout: float = 0.0,
    total_steps: int = 10,
) -> MultiTaskModule:
    """Return a module that trains all layers, or those of ``plan``, at a rate of 0.01."""
    net: MultiTaskNetwork = network(folder, dropout=dropout)
    plan = plan or FreezePlan(dict.fromkeys(net.layer_names, 0))
    rates = uniform_rates(net.encoder.layer_names, heads=0.01, backbone=0.01)
    groups = parameter_groups(net, rates, plan, weight_decay=0.0)
    if combination is not None and (learned := dict(combination.named_parameters())):
        groups.append(ParameterGroup(COMBINATION, ("log variances",), 0.01, 0.0, learned))
    return MultiTaskModule(
        net,
        TASKS,
        losses or TaskLosses(),
        combination or Combination(tuple(TASKS)),
        plan,
        optimizer=partial(build_adamw, groups, betas=(0.9, 0.999), eps=1e-8),
        scheduler=partial(build_schedule, schedule="constant", total_steps=total_steps, warmup=0),
        guard=StepGuard(Mock(spec=BadSteps), net),
    )


def logged(module: MultiTaskModule, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Return a dictionary that is filled with what the module logs from now on."""
    figures: dict[str, float] = {}

    def log(name: str, value: Any, **_: object) -> None:
        figures[name] = float(value)

    monkeypatch.setattr(module, "log", log)
    return figures


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts inside its block how often a number is taken out of a tensor, for which a GPU has to finish first."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
        return func(*args, **(kwargs or {}))
