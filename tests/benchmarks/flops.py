"""FLOPs of an encoder, from its architecture: what is useful work, so tokens without padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

TRAIN_FACTOR = 3
"""A training step costs three forward passes: each product has two in its backward pass."""


def forward_flops(config: Any, lengths: ArrayLike) -> float:
    """Return the floating-point operations of a forward pass; a multiply-add counts as two.

    Each layer has per token four H x H products (query, key, value, output), two of H x I, and per row two of
    S x S x H (scores, weighted values). Embeddings, norms, activations and pooling are left out: they are no products.

    Args:
        config: The backbone's transformers config.
        lengths: Tokens of each row, (N,).
    """
    sizes = np.asarray(lengths, dtype=np.float64)
    hidden, inner = config.hidden_size, config.intermediate_size
    linear = sizes.sum() * (8 * hidden**2 + 4 * hidden * inner)
    attention = (sizes**2).sum() * 4 * hidden
    return float(config.num_hidden_layers * (linear + attention))
