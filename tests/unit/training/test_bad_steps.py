"""The guard of steps: with the gradient scaler of fp16, and what it makes of tensors that are not finite."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import nn

from mtl.training.bad_steps import StepGuard, not_finite
from mtl.training.learning_rates import ParameterGroup
from mtl.training.optimization import build_adamw
from tests.support.networks import batch


@pytest.mark.parametrize("every", [1, 10])
def test_a_bad_loss_with_the_gradient_scaler_of_fp16(every: int) -> None:
    """As on a GPU, where the guard looks every so many steps, with the optimizer and the scaler of ``16-mixed``."""
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    group = ParameterGroup("heads", ("heads.mood",), 0.1, 0.0, {"weight": weight})
    optimizer = build_adamw([group], betas=(0.9, 0.999), eps=1e-8, fused=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    reports = mock.Mock()
    guard = StepGuard(reports, nn.ParameterList([weight]), every=every, scaled=True)
    changed = []
    for step, factor in enumerate([1.0, float("nan"), float("inf"), 1.0]):
        before = weight.detach().clone()
        loss = (weight * factor).sum()
        guard.record(batch(), {"mood": loss}, loss)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(optimizer)
        guard.check_step(optimizer, torch.tensor(1.0), step, 0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        changed.append(not torch.equal(weight, before))
    guard.inspect()
    assert changed == [True, False, False, True]
    assert [call.args[0].step for call in reports.left_out.call_args_list] == [2, 3]
    assert weight.isfinite().all()


def test_only_what_is_not_finite_is_named() -> None:
    huge = torch.full((4,), 3e38)  # whose sum is infinite
    tensors = {
        "good": torch.ones(3),
        "huge": huge,
        "nan": torch.tensor([1.0, float("nan")]),
        "both": torch.tensor([float("inf"), -float("inf")]),
        "half": torch.full((100_000,), 1.0, dtype=torch.float16),
        "empty": torch.empty(0),
        "numbers": torch.arange(3),
    }
    assert not_finite(tensors) == ["nan", "both"]
    assert not_finite({}) == []
