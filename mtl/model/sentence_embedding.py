"""Pool by name (`mtl.base.pooling` has the poolings), and the dense layers that may follow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtl.base.pooling import POOLINGS
from mtl.model.layout import DenseSpec

_ACTIVATIONS = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
}


def pool(name: str, hidden: Tensor, mask: Tensor) -> Tensor:
    """Return embeddings, (B, k * H), float32, of hidden states, (B, S, H), with a mask, (B, S), not 0 at real tokens.

    The name is a key of ``POOLINGS``, or k of them joined by ``+``, whose results are concatenated: ``cls+mean``.
    """
    pooled = [POOLINGS[mode].function(hidden, mask) for mode in name.split("+")]
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=-1)


class Dense(nn.Module):
    """A linear layer and an activation on embeddings, as sentence-transformers' module of the same name."""

    def __init__(self, spec: DenseSpec) -> None:
        super().__init__()
        self.linear = nn.Linear(spec.in_features, spec.out_features, bias=spec.bias)
        self.activation = _ACTIVATIONS[spec.activation]()

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return embeddings (B, out) of embeddings (B, in), in float32 also under autocast."""
        with torch.autocast(embeddings.device.type, enabled=False):
            result: Tensor = self.activation(self.linear(embeddings))
        return result
