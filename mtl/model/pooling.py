"""Pool by name (`mtl.base.pooling` has the poolings), and the dense layers that may follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from mtl.base.pooling import POOLINGS

if TYPE_CHECKING:
    from mtl.model.layout import DenseSpec

ACTIVATIONS: Final[dict[str, type[nn.Module]]] = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
}
"""The activations that a `Dense` may have, by the names of `mtl.model.layout`."""


def pool(name: str, hidden: Tensor, mask: Tensor) -> Tensor:
    """Pool by name.

    Args:
        name: A key of ``POOLINGS``, or several joined by ``+``, whose results are concatenated: ``cls+mean``.
        hidden: Hidden states, (B, S, H).
        mask: True (or not 0) at real tokens, (B, S).

    Returns:
        Embeddings, (B, k * H) for k names, float32.

    Raises:
        ValueError: No pooling has this name.
    """
    modes = name.split("+")
    if unknown := [mode for mode in modes if mode not in POOLINGS]:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, not {unknown[0]!r}")
    pooled = [POOLINGS[mode].function(hidden, mask) for mode in modes]
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=-1)


class Dense(nn.Module):
    """A linear layer and an activation on embeddings, as sentence-transformers' module of the same name.

    Args:
        spec: Its sizes and its activation.
    """

    def __init__(self, spec: DenseSpec) -> None:
        super().__init__()
        self.linear = nn.Linear(spec.in_features, spec.out_features, bias=spec.bias)
        self.activation = ACTIVATIONS[spec.activation]()

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return embeddings (B, out) of embeddings (B, in), in float32 also under autocast."""
        with torch.autocast(embeddings.device.type, enabled=False):
            result: Tensor = self.activation(self.linear(embeddings))
        return result
