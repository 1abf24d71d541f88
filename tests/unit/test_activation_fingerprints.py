"""Fingerprints change with everything that activations depend on, and with nothing else."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtl.activations import Source, tensors_fingerprint, tokenizer_fingerprint, weights_fingerprint

SOURCE = Source("w", "t", max_length=128, pooling="mean", normalize=True, precision="fp32", boundary="embedding")


def model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "README.md"):
        (folder / name).write_text(f"content of {name}")
    return folder


def test_a_copy_has_the_same_fingerprints(tmp_path: Path) -> None:
    first, second = model(tmp_path / "a"), model(tmp_path / "b")
    assert weights_fingerprint(first) == weights_fingerprint(second)
    assert tokenizer_fingerprint(first) == tokenizer_fingerprint(second)
    assert weights_fingerprint(first) != tokenizer_fingerprint(first)


@pytest.mark.parametrize(
    ("name", "weights", "tokenizer"),
    [
        ("model.safetensors", True, False),
        ("config.json", True, False),
        ("tokenizer.json", False, True),
        ("tokenizer_config.json", False, True),
        ("README.md", False, False),
    ],
)
def test_a_changed_file_changes_its_fingerprint(tmp_path: Path, name: str, weights: bool, tokenizer: bool) -> None:
    folder = model(tmp_path / "a")
    before = weights_fingerprint(folder), tokenizer_fingerprint(folder)
    times = (folder / name).stat()
    (folder / name).write_text(f"CONTENT of {name}")
    os.utime(folder / name, ns=(times.st_atime_ns, times.st_mtime_ns))  # same size, same time of change
    assert weights_fingerprint(folder) == before[0] or weights
    assert (weights_fingerprint(folder) != before[0], tokenizer_fingerprint(folder) != before[1]) == (
        weights,
        tokenizer,
    )


def test_weights_in_several_files(tmp_path: Path) -> None:
    folder = model(tmp_path / "a")
    for shard in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        before = weights_fingerprint(folder)
        (folder / shard).write_text("tensors")
        assert weights_fingerprint(folder) != before


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        weights_fingerprint(tmp_path)
    assert str(caught.value) == f"{tmp_path} has none of model.safetensors, model-*-of-*.safetensors, config.json"


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
        {"tokenizer": "u"},
        {"max_length": 64},
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
