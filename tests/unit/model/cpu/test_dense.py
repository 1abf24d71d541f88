"""Linear layers by oneDNN give what PyTorch's give, and are left alone where they need a gradient or do not work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in this field
from torch import Tensor
from transformers.activations import ACT2FN

from mtl.model.cpu import dense


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    dense._available.cache_clear()
    yield
    dense._available.cache_clear()


def case(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(37, 64).to(dtype), torch.randn(96, 64).to(dtype), torch.randn(96).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float64, 0.0)])
def test_inference_gives_what_torch_gives(dtype: torch.dtype, tolerance: float) -> None:
    x, weight, bias = case(dtype)
    expected = F.linear(x, weight, bias)
    with torch.inference_mode():
        found, activated = dense.linear(x, weight, bias), dense.linear_gelu(x, weight, bias)
    assert found.dtype == activated.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(activated, F.gelu(expected), rtol=tolerance, atol=tolerance)


def test_a_graph_is_made_where_gradients_are_on() -> None:
    x, weight, bias = case()
    weight.requires_grad_()
    found = torch.autograd.grad(dense.linear_gelu(x, weight, bias).sum(), weight)
    expected = torch.autograd.grad(F.gelu(F.linear(x, weight, bias)).sum(), weight)
    assert torch.equal(found[0], expected[0])


def test_frozen_weights_need_no_graph() -> None:
    x, weight, bias = case()
    assert not dense.has_graph(x, weight, None)
    assert not dense.linear(x, weight, bias).requires_grad
    with torch.inference_mode():
        expected = dense.linear_gelu(x, weight, bias)
    assert torch.equal(dense.linear_gelu(x, weight, bias), expected)


@pytest.mark.parametrize("error", [None, RuntimeError, AttributeError])
def test_an_operator_that_is_wrong_or_missing_is_not_used(
    error: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
        del activation
        if error:
            raise error("no such operator")
        return F.linear(x, weight, bias) * 1.01

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(dense, "_by_onednn", broken)
    assert not dense._available()
    with torch.inference_mode():
        assert torch.equal(dense.linear(*case()), F.linear(*case()))


def test_the_context_of_the_first_question_does_not_matter() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = dense._available()
    dense._available.cache_clear()
    assert dense._available() == found


@pytest.mark.parametrize("rows", [37, 1, 500])
def test_a_weight_in_order_gives_the_same(rows: int) -> None:
    x, weight, bias = case()
    with torch.inference_mode():
        found = dense.linear(x, dense.in_order(weight, rows), bias)
        torch.testing.assert_close(found, F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)


def test_older_processors_keep_what_torch_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not dense._available()
    weight = case()[1]
    with torch.inference_mode():
        assert dense.in_order(weight, 8) is weight


def test_only_the_exact_gelu_is_taken_for_it() -> None:
    assert dense.is_gelu(ACT2FN["gelu"])
    assert not any(dense.is_gelu(ACT2FN[name]) for name in ("gelu_new", "relu", "gelu_pytorch_tanh", "gelu_python"))
