"""The optimizer's groups and steps, and the schedule, against figures worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtl.training.learning_rates import ParameterGroup
from mtl.training.optimization import Schedule, build_adamw, build_schedule, clip_norm, rate_factor

EXPECTED: dict[str, list[float]] = {
    "linear": [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0],
    "cosine": [0.25, 0.5, 0.75, 1.0, 1.0, 0.8535533905932737, 0.5, 0.1464466094067262, 0.0, 0.0],
    "constant": [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
}


def factors(schedule: Schedule, total: int, warmup: float, steps: int) -> list[float]:
    factor = rate_factor(schedule, total, warmup)
    return [factor(step) for step in range(steps)]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [4, 0.5])
def test_the_rate_rises_and_falls(schedule: Schedule, warmup: float) -> None:
    assert factors(schedule, 8, warmup, 10) == pytest.approx(EXPECTED[schedule], abs=1e-15)


def test_no_warmup_begins_at_the_peak() -> None:
    assert factors("linear", 4, 0, 6) == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_a_share_is_rounded_to_whole_steps() -> None:
    assert factors("constant", 25, 0.1, 3) == [0.5, 1.0, 1.0]  # 2.5 steps, to even
    assert factors("constant", 3, 0.1, 1) == [1.0]


def test_a_warmup_longer_than_the_training_ends_with_it() -> None:
    assert factors("linear", 2, 100, 4) == [0.5, 1.0, 1.0, 0.0]


def groups(rate: float = 0.1) -> list[ParameterGroup]:
    weight, bias = nn.Parameter(torch.tensor([[2.0, -4.0]])), nn.Parameter(torch.tensor([3.0]))
    return [
        ParameterGroup("heads", ("heads.mood",), rate, 0.5, {"weight": weight}),
        ParameterGroup("heads/no_decay", ("heads.mood",), rate, 0.0, {"bias": bias}),
    ]


def test_the_optimizer_has_the_groups_as_they_are() -> None:
    given = groups()
    optimizer = build_adamw(given, betas=(0.8, 0.99), eps=1e-6)
    assert [
        (each["name"], each["lr"], each["weight_decay"], each["betas"], each["eps"]) for each in optimizer.param_groups
    ] == [("heads", 0.1, 0.5, (0.8, 0.99), 1e-6), ("heads/no_decay", 0.1, 0.0, (0.8, 0.99), 1e-6)]
    for found, expected in zip(optimizer.param_groups, given, strict=True):
        assert all(a is b for a, b in zip(found["params"], expected.parameters.values(), strict=True))


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_moves_by_the_rate_and_decays_weights_alone(fused: bool) -> None:
    """The first step of Adam is the rate times the gradient's sign, whatever its size."""
    given = groups()
    optimizer = build_adamw(given, betas=(0.9, 0.999), eps=1e-12, fused=fused)
    assert {each["fused"] for each in optimizer.param_groups} == {fused}
    weight, bias = (next(iter(each.parameters.values())) for each in given)
    weight.grad, bias.grad = torch.tensor([[10.0, -0.01]]), torch.tensor([0.0])
    optimizer.step()
    # 2 * (1 - 0.1 * 0.5) - 0.1, -4 * (1 - 0.1 * 0.5) + 0.1
    assert weight.tolist()[0] == pytest.approx([1.8, -3.7])
    assert bias.tolist() == [3.0]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("limit", [0.5, 7.0, 1e9])
def test_a_clipped_step_is_that_of_clipped_gradients(fused: bool, limit: float) -> None:
    """Over several steps, whose gradients differ in norm, so that Adam's averages depend on the clipping."""
    ours, plain = groups(), groups()
    optimizer = build_adamw(ours, betas=(0.9, 0.999), eps=1e-8, fused=fused)
    rival = build_adamw(plain, betas=(0.9, 0.999), eps=1e-8, fused=False)
    for size in (1.0, 10.0, 0.1):
        for each in (ours, plain):
            weight, bias = (next(iter(group.parameters.values())) for group in each)
            weight.grad, bias.grad = size * torch.tensor([[3.0, -0.01]]), size * torch.tensor([4.0])
        clip_norm(optimizer, limit)
        optimizer.step()
        nn.utils.clip_grad_norm_([next(iter(group.parameters.values())) for group in plain], limit)
        rival.step()
        for mine, theirs in zip(ours, plain, strict=True):
            for one, other in zip(mine.parameters.values(), theirs.parameters.values(), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-6, atol=0)
                torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=0)


def test_a_step_that_is_not_clipped_has_its_own_gradients() -> None:
    """Clipping holds for one step: with momentum off, 10 times the gradient is 10 times the average."""
    given = groups()
    optimizer = build_adamw(given, betas=(0.0, 0.999), eps=1e-8)
    bias = given[1].parameters["bias"]
    for clipped, expected in ((True, 0.5), (False, 40.0)):
        bias.grad = torch.tensor([40.0])
        if clipped:
            clip_norm(optimizer, 0.5)
        optimizer.step()
        assert optimizer.state[bias]["exp_avg"].item() == pytest.approx(expected)


def test_nothing_to_clip_is_no_error() -> None:
    optimizer = build_adamw(groups(), betas=(0.9, 0.999), eps=1e-8)
    clip_norm(optimizer, 1.0)
    optimizer.step()


def test_every_group_follows_the_schedule_from_its_own_rate() -> None:
    given = [*groups(0.1), ParameterGroup("upper", ("layer.2",), 0.02, 0.0, {"w": nn.Parameter(torch.zeros(1))})]
    optimizer = build_adamw(given, betas=(0.9, 0.999), eps=1e-8)
    scheduler = build_schedule(optimizer, "linear", total_steps=4, warmup=2)
    seen = []
    for _ in range(5):
        seen.append([each["lr"] for each in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    expected = [[0.05, 0.05, 0.01], [0.1, 0.1, 0.02], [0.1, 0.1, 0.02], [0.05, 0.05, 0.01], [0.0, 0.0, 0.0]]
    assert seen == [pytest.approx(rates) for rates in expected]
