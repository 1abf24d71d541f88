"""Dropout from fewer random numbers: the same distribution, the same gradient rule, and PyTorch's where it must be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtl.model.cpu.dropout import FastDropout, dropout_noise, fast_dropout, use_fast_dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_and_the_mean_are_right(p: float) -> None:
    torch.manual_seed(0)
    dropped = fast_dropout(torch.ones(1_000_003), p)  # not a multiple of four
    assert (dropped == 0).double().mean().item() == pytest.approx(p, abs=0.003)
    assert dropped.double().mean().item() == pytest.approx(1.0, abs=0.01)
    assert sorted(set(dropped[dropped != 0].tolist())) == pytest.approx([1 / (1 - p)], rel=1e-3)


def test_neighbours_are_independent() -> None:
    torch.manual_seed(1)
    kept = (fast_dropout(torch.ones(400_000), 0.5) != 0).double()
    for distance in (1, 2, 3, 4):
        together = (kept[:-distance] * kept[distance:]).mean().item()
        assert together == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_is_dropped_where_the_value_is(dtype: torch.dtype) -> None:
    x = torch.ones(64, 33, dtype=dtype, requires_grad=True)
    found = fast_dropout(x, 0.3)
    torch.autograd.backward(found, torch.ones_like(found))
    assert x.grad is not None
    assert found.dtype == dtype
    assert torch.equal(x.grad, found.detach())


def test_rows_without_noise_draw_no_random_number() -> None:
    noise = []
    for rows in (10, 7):
        torch.manual_seed(3)
        noise.append(dropout_noise(torch.ones(rows, 6), 0.4, 7))
    assert torch.equal(noise[0][:7], noise[1])
    assert not noise[0][7:].any()


def test_one_seed_gives_one_result() -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(7)
        found.append(fast_dropout(torch.ones(999), 0.2))
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize(("p", "expected"), [(0.0, 1.0), (1.0, 0.0)])
def test_the_ends_of_the_range(p: float, expected: float) -> None:
    assert torch.equal(fast_dropout(torch.ones(10), p), torch.full((10,), expected))


@pytest.mark.parametrize("p", [1e-9, 7e-6, 1e-5])
def test_a_probability_below_the_levels_drops_next_to_nothing(p: float) -> None:
    torch.manual_seed(0)
    assert fast_dropout(torch.ones(100_000), p).count_nonzero() > 99_900


def test_only_plain_dropouts_are_exchanged_and_eval_mode_drops_nothing() -> None:
    module = nn.Sequential(
        nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.2), nn.AlphaDropout(0.2)), nn.Dropout(0.5, inplace=True)
    )
    use_fast_dropout(module)
    kinds = [type(each) for each in module.modules() if isinstance(each, nn.Dropout)]
    assert kinds == [FastDropout, FastDropout, nn.Dropout]
    x = torch.randn(5, 7)
    assert torch.equal(module.eval()(x), x)


def test_no_elements() -> None:
    assert fast_dropout(torch.empty(0, 3), 0.5).shape == (0, 3)
