"""The real MPNet, `all-mpnet-base-v2`: every fast path gives what the plain one gives, and runs on it hold together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch import Tensor

from mtl import MultiTaskModel, SentenceEncoder
from mtl.model.encoder import Encoder
from mtl.training.run import train
from tests.integration.test_resume import broken_off
from tests.support.resuming import differences
from tests.support.runs import config, data

TEXTS = [
    "The crew was kind and the flight on time.",
    "ok",
    "",
    "Two hours on hold, then cut off. Never again; I have flown with them for years and it only gets worse each time.",
    "Größe und Qualität stimmen 👍",
]


@pytest.fixture(scope="module")
def encoder(mpnet_weights: Path) -> Encoder:
    return Encoder.from_folder(mpnet_weights)


def overrides(folder: Path, weights: Path, *more: str) -> list[str]:
    """Return a short training on a few rows."""
    files = data(folder / "data", train=6, other=2)
    return [*files, "backbone=mpnet", f"backbone.path={weights}", "trainer.max_epochs=2", "retention.path=null", *more]


def gradients(encoder: Encoder, ids: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return embeddings and the gradients of a weighted sum of them."""
    encoder.zero_grad()
    embeddings = encoder(ids, mask)
    (embeddings * torch.linspace(-1, 1, embeddings.numel()).view_as(embeddings)).sum().backward()
    named = {name: each.grad.clone() for name, each in encoder.named_parameters() if each.grad is not None}
    encoder.zero_grad()
    return embeddings.detach(), named


def test_embeddings_are_those_of_sentence_transformers(mpnet_weights: Path) -> None:
    ours = SentenceEncoder.from_pretrained(str(mpnet_weights))
    peer = SentenceTransformer(str(mpnet_weights), device="cpu")
    expected = peer.encode(TEXTS)
    np.testing.assert_allclose(ours.encode(TEXTS), expected, rtol=0, atol=1e-5)
    assert ours.dimension == 768
    cosines = (ours.encode(TEXTS, precision="bf16") * expected).sum(axis=1)
    assert cosines.min() > 0.999


def test_packed_fused_layers_give_the_plain_outputs_and_gradients(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = torch.tensor([3, 9, 31, 64])
    ids = torch.randint(1000, 20_000, (4, 64), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(64) < lengths[:, None]
    found, found_gradients = gradients(encoder, ids, mask)
    monkeypatch.setattr(Encoder, "_packable", lambda *_: False)
    expected, expected_gradients = gradients(encoder, ids, mask)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert found_gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(found_gradients[name], gradient, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_a_frozen_run_from_the_cache_equals_one_without_it_and_its_model_loads(
    mpnet_weights: Path, tmp_path: Path
) -> None:
    for name, cached in (("plain", False), ("cold", True), ("warm", True)):
        chosen = overrides(tmp_path, mpnet_weights, "experiment=backbone_frozen", f"cache.activations={cached}")
        train(config(*chosen), tmp_path / name)
    plain, *others = (load_file(tmp_path / name / "model" / "heads.safetensors") for name in ("plain", "cold", "warm"))
    for heads in others:
        for key, value in plain.items():
            torch.testing.assert_close(heads[key], value, rtol=0, atol=1e-5, msg=key)

    model = MultiTaskModel.from_pretrained(str(tmp_path / "warm"))
    probabilities = model.predict_proba(TEXTS)
    assert {task: rows.shape for task, rows in probabilities.items()} == {"classification": (5, 3), "sentiment": (5, 2)}
    base = SentenceEncoder.from_pretrained(str(mpnet_weights))
    np.testing.assert_array_equal(model.encode(TEXTS), base.encode(TEXTS))  # nothing of the encoder was trained
    peer = SentenceTransformer(str(tmp_path / "warm" / "model"), device="cpu")
    np.testing.assert_allclose(peer.encode(TEXTS), base.encode(TEXTS), rtol=0, atol=1e-5)
    cost = json.loads((tmp_path / "warm" / "metrics.json").read_text())["cost"]
    assert cost["encoding_seconds"] > 0


@pytest.mark.slow
def test_a_run_of_all_layers_that_was_broken_off_ends_with_the_same_weights(
    mpnet_weights: Path, tmp_path: Path
) -> None:
    chosen = overrides(
        tmp_path, mpnet_weights, "freeze=none", "callbacks.keep_best=false", "callbacks.save_every_steps=1"
    )
    train(config(*chosen), tmp_path / "unbroken")
    broken_off(tmp_path / "run", chosen, 2)
    train(config(*chosen), tmp_path / "run", resume=True)
    assert differences(tmp_path / "run", tmp_path / "unbroken") == []
