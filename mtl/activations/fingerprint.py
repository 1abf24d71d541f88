"""Fingerprints of what activations depend on: weights, tokenizer, and how the encoder is run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

_WEIGHTS: Final = ("model.safetensors", "model-*-of-*.safetensors", "config.json")
_TOKENIZER: Final = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.*", "merges.txt")


@dataclass(frozen=True, slots=True)
class Source:
    """Everything that the activations of a text depend on, next to its token ids.

    Attributes:
        weights: `weights_fingerprint` of a folder, or `tensors_fingerprint` of weights that were trained.
        tokenizer: `tokenizer_fingerprint`.
        max_length: The most tokens of a text.
        pooling: How token vectors become an embedding.
        normalize: Whether embeddings have length 1.
        precision: In which the matrix products run: ``fp32``, ``bf16``.
        boundary: ``embedding``, or the number ``k`` of frozen layers whose hidden states are kept.
    """

    weights: str
    tokenizer: str
    max_length: int
    pooling: str
    normalize: bool
    precision: str
    boundary: int | Literal["embedding"]

    def text(self) -> str:
        """Return the text that names the source in a store: the same for the same facts, JSON."""
        return json.dumps(asdict(self), sort_keys=True)


def weights_fingerprint(folder: Path) -> str:
    """Return the SHA-256 over the content of a model's safetensors and its ``config.json``.

    A file is read once per process, and again when its size or one of its times has changed.

    Raises:
        FileNotFoundError: The folder has none of them.
    """
    return _files_fingerprint(folder, _WEIGHTS)


def tokenizer_fingerprint(folder: Path) -> str:
    """Return the SHA-256 over the content of a tokenizer's files; see `weights_fingerprint`."""
    return _files_fingerprint(folder, _TOKENIZER)


def tensors_fingerprint(tensors: Mapping[str, Any]) -> str:
    """Return the SHA-256 over the names, dtypes, shapes and values of a state dict, whatever the order of its names.

    Args:
        tensors: PyTorch tensors on any device, or NumPy arrays.
    """
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
    import numpy as np

    if isinstance(tensor, np.ndarray):
        return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())


def _files_fingerprint(folder: Path, patterns: Iterable[str]) -> str:
    files = sorted({path for pattern in patterns for path in Path(folder).glob(pattern) if path.is_file()})
    if not files:
        raise FileNotFoundError(f"{folder} has none of {', '.join(patterns)}")
    facts = [[path.name, _file_fingerprint(path)] for path in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _file_fingerprint(path: Path) -> str:
    status = path.stat()
    return _hashed(path.resolve(), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


@lru_cache(maxsize=256)
def _hashed(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
