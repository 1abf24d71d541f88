"""Fingerprints change with everything that activations depend on, and with nothing else."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from mtl.activations import Source, tensors_fingerprint

SOURCE = Source("w", pooling="mean", normalize=True, precision="fp32", boundary="embedding")


def tensors(**changed: Any) -> dict[str, Any]:
    return {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.zeros(2), "step": torch.tensor(3)} | {
        name.replace("_", "."): value for name, value in changed.items()
    }


def test_tensors_with_the_same_content() -> None:
    expected = tensors_fingerprint(tensors())
    assert tensors_fingerprint(dict(reversed(tensors().items()))) == expected
    strided = torch.arange(6.0).reshape(3, 2).T.contiguous().T.reshape(3, 2)
    assert tensors_fingerprint(tensors(layer_weight=strided.reshape(2, 3))) == expected
    assert tensors_fingerprint(tensors(layer_weight=torch.nn.Parameter(torch.arange(6.0).reshape(2, 3)))) == expected
    arrays = {name: tensor.numpy() for name, tensor in tensors().items()}
    assert tensors_fingerprint(arrays) == expected


@pytest.mark.parametrize(
    "changed",
    [
        {"layer_weight": torch.arange(6.0).reshape(3, 2)},
        {"layer_weight": torch.arange(6.0).reshape(2, 3).T.contiguous().T.flip(0)},
        {"layer_weight": torch.arange(6.0).reshape(2, 3).bfloat16()},
        {"layer_bias": torch.tensor([0.0, -0.0])},
        {"layer_bias": torch.zeros(2, dtype=torch.int32)},
        {"other": torch.zeros(0)},
    ],
    ids=["shape", "values", "dtype", "sign of zero", "dtype of the same bytes", "name"],
)
def test_tensors_with_another_content(changed: dict[str, Any]) -> None:
    assert tensors_fingerprint(tensors(**changed)) != tensors_fingerprint(tensors())


def test_arrays_of_bfloat16_bits_are_not_bfloat16() -> None:
    tensor = torch.ones(3, dtype=torch.bfloat16)
    assert tensors_fingerprint({"a": tensor}) != tensors_fingerprint({"a": tensor.view(torch.uint16).numpy()})
    assert tensors_fingerprint({"a": np.zeros(0)}) != tensors_fingerprint({})


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "v"},
        {"pooling": "cls"},
        {"normalize": False},
        {"precision": "bf16"},
        {"boundary": 0},
    ],
)
def test_every_fact_of_a_source_counts(change: dict[str, Any]) -> None:
    other = dataclasses.replace(SOURCE, **change)
    assert other.text() != SOURCE.text()
    assert json.loads(other.text()) == dataclasses.asdict(SOURCE) | change
