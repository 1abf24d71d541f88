"""Heads: a fixed factor of the embeddings before them."""

from __future__ import annotations

import pytest
import torch

from mtl.model.heads import Head, HeadKind


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_scaled_head_is_the_plain_one_on_scaled_embeddings(kind: HeadKind) -> None:
    plain, scaled = Head(kind, 4, 3), Head(kind, 4, 3, scale=16.0)
    scaled.load_state_dict(plain.state_dict())
    embeddings = torch.nn.functional.normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(scaled(embeddings), plain(16.0 * embeddings))
    assert not torch.allclose(scaled(embeddings), plain(embeddings))
