"""Embeddings from inside an encoder: mean-pooled hidden states of some of its layers, all from one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mtl.data.loading import EvalLoader
from mtl.data.tokenization import TokenTable
from mtl.encoding import Encoding, autocast, evaluating, tracked
from mtl.model.encoder import Encoder
from mtl.model.pooling import mean_pool

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

DEPTHS = (1 / 2, 2 / 3, 5 / 6)
"""Which layers, as shares of all: what tells opinions apart is often lost in the last ones of a sentence encoder."""


def inner_layers(encoder: Encoder) -> list[str]:
    """Return the names of the layers at `DEPTHS`, each once, without the last layer."""
    numbers = sorted({math.ceil(depth * encoder.num_layers) - 1 for depth in DEPTHS} - {encoder.num_layers - 1})
    return [encoder.layer_names[1 + number] for number in numbers]


def layer_embeddings(
    encoder: Encoder, table: TokenTable, layers: Sequence[str], how: Encoding
) -> dict[str, NDArray[np.float32]]:
    """Return the mean over each row's tokens of the hidden states that leave ``layers``.

    Args:
        encoder: The encoder, on its device.
        table: Token ids of ``N`` rows.
        layers: Names of layers of it.
        how: Batches, precision, progress bar.

    Returns:
        For each layer ``(N, H)`` float32, in the order of the table.
    """
    found = {layer: np.empty((len(table), encoder.hidden_size), dtype=np.float32) for layer in layers}
    if not layers:
        return found
    hidden: dict[str, Tensor] = {}
    hooks = [encoder.layer_modules(layer)[0].register_forward_hook(_keeper(hidden, layer)) for layer in layers]
    loader = EvalLoader(table, None, "text", batch_size=how.batch_size, max_tokens=how.max_tokens, pad_id=how.pad_id)
    device = next(encoder.parameters()).device
    done = 0
    try:
        with evaluating(encoder), torch.inference_mode(), autocast(device, how.precision):
            for batch in tracked(loader, how.progress, len(loader)):
                batch = batch.to(device, non_blocking=True)
                assert batch.ids is not None  # noqa: S101 - narrows for mypy: token ids come with their mask
                assert batch.mask is not None  # noqa: S101
                encoder(batch.ids, batch.mask)
                for layer, states in hidden.items():
                    pooled = mean_pool(states, batch.mask)
                    rows = pooled if batch.inverse is None else pooled[batch.inverse]
                    found[layer][loader.indices[done : done + len(rows)]] = rows.cpu().numpy()
                done += len(rows)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _keeper(hidden: dict[str, Tensor], layer: str) -> Callable[..., None]:
    """Return a hook that keeps what a layer puts out."""

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        hidden[layer] = output[0] if isinstance(output, tuple) else output

    return keep
