"""Plain attention gives what transformers' own gives: outputs and gradients, with real weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mtl.model.cpu.attention import NAME
from mtl.model.encoder import Encoder


@pytest.fixture(autouse=True)
def _without_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "_packable", lambda *_: False)


def gradients(encoder: Encoder, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    encoder.zero_grad()
    embeddings = encoder(ids, mask)
    (embeddings * torch.linspace(-1, 1, embeddings.numel()).view_as(embeddings)).sum().backward()
    return embeddings.detach(), {
        name: each.grad.clone() for name, each in encoder.named_parameters() if each.grad is not None
    }


def test_outputs_and_gradients_equal_those_of_the_stock_attention(minilm_folder: Path) -> None:
    encoder = Encoder.from_folder(minilm_folder)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20_000, (5, 23), generator=generator)
    mask = torch.arange(23) < torch.tensor([23, 1, 7, 12, 23])[:, None]
    stock, stock_gradients = gradients(encoder, ids, mask)
    encoder.use_plain_attention()
    assert encoder.config._attn_implementation == NAME
    plain, plain_gradients = gradients(encoder, ids, mask)
    torch.testing.assert_close(plain, stock, rtol=0, atol=1e-5)
    assert plain_gradients.keys() == stock_gradients.keys()
    for name, gradient in stock_gradients.items():
        torch.testing.assert_close(plain_gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_dropout_of_attention_is_on_in_training_only(minilm_folder: Path) -> None:
    encoder = Encoder.from_folder(minilm_folder)
    encoder.use_plain_attention()
    for name, module in encoder.named_modules():
        if isinstance(module, torch.nn.Dropout) and not name.endswith("self.dropout"):
            module.p = 0.0  # only attention's is left
    ids, mask = torch.randint(1000, 20_000, (2, 9)), torch.ones(2, 9, dtype=torch.bool)
    with torch.no_grad():
        assert torch.equal(encoder(ids, mask), encoder(ids, mask))
        encoder.train()
        assert not torch.equal(encoder(ids, mask), encoder(ids, mask))
