"""Fingerprints of what activations depend on: the weights, and how the encoder is run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mtl.data.batch import Boundary  # at run time it would import torch


@dataclass(frozen=True, slots=True)
class Source:
    """Everything that the activations of a text depend on next to its token ids, which tell tokenizer and length."""

    weights: str  # `tensors_fingerprint` of the layers that take part, and the encoder's configuration
    pooling: str  # how token vectors become an embedding
    normalize: bool  # whether embeddings have length 1
    precision: str  # in which the matrix products run: ``fp32``, ``bf16``
    boundary: Boundary

    def text(self) -> str:
        """Return the text that names the source in a store, JSON."""
        return json.dumps(asdict(self), sort_keys=True)


def tensors_fingerprint(tensors: Mapping[str, Any]) -> str:
    """Return the SHA-256 over the names, dtypes, shapes and values of tensors or arrays, whatever their order."""
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        data = _raw_bytes(tensor)
        dtype = str(tensor.dtype).removeprefix("torch.")
        hasher.update(json.dumps([name, dtype, list(tensor.shape), len(data)]).encode())
        hasher.update(data)
    return hasher.hexdigest()


def _raw_bytes(tensor: Any) -> memoryview:
    """Return the values of a tensor in the order of its indices as bytes; copied only if they lie otherwise."""
    if not isinstance(tensor, np.ndarray):
        import torch

        tensor = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data
