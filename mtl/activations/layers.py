"""Mean-pooled hidden states of several layers of an encoder, all from one forward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mtl.activations.encoding import Encoding, batches, inferring, tracked
from mtl.base.pooling import mean_pool
from mtl.data.tokens import TokenTable
from mtl.model.encoder import Encoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEPTHS = (1 / 2, 2 / 3, 5 / 6)
"""Which layers, as shares of all: what tells opinions apart is often lost in the last ones of a sentence encoder."""


def inner_layers(encoder: Encoder) -> list[str]:
    """Return the names of the layers at `DEPTHS`, each once, without the last layer."""
    numbers = sorted({math.ceil(depth * encoder.num_layers) - 1 for depth in DEPTHS} - {encoder.num_layers - 1})
    return [encoder.layer_names[1 + number] for number in numbers]


def layer_embeddings(
    encoder: Encoder, table: TokenTable, layers: Sequence[str], how: Encoding
) -> dict[str, NDArray[np.float32]]:
    """Return the mean over each row's tokens of the hidden states behind each layer, from the bottom, ``(N, H)``."""
    embeddings = {layer: np.empty((len(table), encoder.hidden_size), dtype=np.float32) for layer in layers}
    if not layers:
        return embeddings
    boundaries = [encoder.layer_names.index(layer) for layer in layers]  # the embeddings are number 0
    device = next(encoder.parameters()).device
    loader = batches(table, how, device)
    with inferring(encoder, device, how.precision, len(loader)):
        for batch in tracked(loader, how.progress, len(loader)):
            batch = batch.to(device, non_blocking=True)
            assert batch.ids is not None  # noqa: S101 - narrows for mypy: token ids come with their mask
            assert batch.mask is not None  # noqa: S101
            states = encoder.hidden_states(batch.ids, batch.mask, boundaries)
            places = batch.indices["text"].numpy()
            for layer, hidden in zip(layers, states, strict=True):
                pooled = mean_pool(hidden, batch.mask)
                embeddings[layer][places] = (pooled if batch.inverse is None else pooled[batch.inverse]).cpu().numpy()
    return embeddings
