"""Linear layers for inference on a CPU with AVX-512: oneDNN in fp32 too, with GELU fused in.

PyTorch gives fp32 products to MKL; on an AMD Zen 5 oneDNN is more than twice as fast. PyTorch has it as the operator
that its own compiler puts in place of a frozen linear layer (``torch._inductor``, ``mkldnn._linear_pointwise``); it has
no gradient.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in this field
from torch import Tensor, nn
from transformers.activations import GELUActivation

_NO_CHANCE = 1e-4
"""A difference that rounding does not explain."""


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``x W^T + b``, ``(T, out)``, of x, ``(T, in)``, W, ``(out, in)``, and b, ``(out,)``, in their type."""
    return _by_onednn(x, weight, bias, "none") if _takes(x, weight, bias) else F.linear(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``gelu(x W^T + b)``, ``(T, out)``, with the exact GELU (Hendrycks & Gimpel 2016); see `linear`."""
    return _by_onednn(x, weight, bias, "gelu") if _takes(x, weight, bias) else F.gelu(F.linear(x, weight, bias))


def is_gelu(activation: nn.Module) -> bool:
    """Whether an activation of transformers is the exact GELU."""
    return isinstance(activation, GELUActivation) and activation.act is F.gelu


def in_order(weight: Tensor, rows: int) -> Tensor:
    """Return W in the order in which oneDNN reads it, a copy that only `linear` and `linear_gelu` understand.

    It is in order for products of ``rows`` rows; those of other numbers are right too.
    """
    if not _takes(weight):
        return weight
    ordered: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return ordered


def has_graph(*tensors: Tensor | None) -> bool:
    """Whether a result of these tensors becomes part of a graph."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _takes(*tensors: Tensor) -> bool:
    """Whether oneDNN is to multiply tensors of one type."""
    return tensors[0].dtype in {torch.float32, torch.bfloat16} and not has_graph(*tensors) and _available()


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    algorithm = "none" if activation == "gelu" else ""  # "none": without an approximation of erf
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], algorithm)
    return product


@functools.cache
def _available() -> bool:
    """Whether the operator is there and gives what it should: it is not part of PyTorch's public interface."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    x, weight, bias = (torch.linspace(-1, 2, count) for count in (32, 48, 6))
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        x, weight = x.view(4, 8), weight.view(6, 8)
        try:
            ordered = torch.ops.mkldnn._reorder_linear_weight(weight, len(x))
            products = [_by_onednn(x, weight, bias, "none"), _by_onednn(x, ordered, bias, "gelu")]
        except (AttributeError, RuntimeError, TypeError):
            return False
        plain = F.linear(x, weight, bias)
        return all(
            bool((product - expected).abs().max() < _NO_CHANCE)
            for product, expected in zip(products, (plain, F.gelu(plain)), strict=True)
        )
