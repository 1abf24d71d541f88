"""Attention without a graph: what the textbook says, whatever the scores."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mtl.model.cpu.attention import LONGEST_IN_PLAIN, inferred_attention


def tensors(rows: int, tokens: int, level: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values and a mask of the last token; all scores are near ``level``."""
    random = torch.Generator().manual_seed(rows + tokens)
    query, key, value = torch.randn(3, rows, 2, tokens, 16, generator=random).bfloat16()
    query[..., 0], key[..., 0] = 1.0, level
    added = torch.zeros(rows, 1, 1, tokens, dtype=torch.bfloat16)
    if tokens > 1:
        added[..., -1] = torch.finfo(torch.bfloat16).min
    return query, key, value, added


def textbook(query: Tensor, key: Tensor, value: Tensor, added: Tensor | None, scale: float) -> Tensor:
    """The definition, on the scores that bf16 has."""
    scores = (query @ key.transpose(2, 3)).mul(scale)
    scores = scores if added is None else scores + added
    return scores.double().softmax(dim=-1) @ value.double()


@settings(deadline=None)  # a kernel is made for each new shape
@given(
    st.integers(1, 3),
    st.integers(1, 40),
    st.sampled_from([0.0, 3.0, 60.0, 95.0, 500.0, -60.0, -95.0, -500.0]),
    st.booleans(),
)
def test_it_is_the_softmax_at_any_level_of_the_scores(rows: int, tokens: int, level: float, masked: bool) -> None:
    query, key, value, added = tensors(rows, tokens, level)
    given_mask = added if masked else None
    found = inferred_attention(query, key, value, given_mask, scale=1.0)
    expected = textbook(query, key, value, given_mask, 1.0)
    torch.testing.assert_close(found.double(), expected, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("level", [0.0, 95.0, -95.0])
def test_softmax_is_called_only_where_exponentials_leave_their_range(
    level: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def softmax(scores: Tensor, dim: int) -> Tensor:
        calls.append(dim)
        return torch.softmax(scores, dim)

    monkeypatch.setattr(Tensor, "softmax", softmax)
    query, key, value, added = tensors(2, 7, level)
    inferred_attention(query, key, value, added, scale=1.0)
    assert bool(calls) == bool(level)


def test_one_row_out_of_range_is_enough() -> None:
    query, key, value, _ = tensors(3, 5, 0.0)
    query[1, 0, 2] *= 100.0
    found = inferred_attention(query, key, value, None, scale=1.0)
    torch.testing.assert_close(found.double(), textbook(query, key, value, None, 1.0), rtol=0.03, atol=0.03)


def test_nan_stays_nan() -> None:
    query, key, value, _ = tensors(1, 5, 0.0)
    query[0, 0, 2, 3] = float("nan")
    found = inferred_attention(query, key, value, None, scale=1.0)
    assert found[0, 0, 2].isnan().all()
    assert found[0, 1].isfinite().all()


def test_long_rows_and_fp32_are_the_same_too() -> None:
    query, key, value, added = tensors(1, LONGEST_IN_PLAIN + 1, 0.0)
    expected = textbook(query, key, value, added, 0.25)
    found = inferred_attention(query, key, value, added, scale=0.25)
    torch.testing.assert_close(found.double(), expected, rtol=0.03, atol=0.03)
    query, key, value, added = (each.float() for each in tensors(2, 9, 500.0))
    found = inferred_attention(query, key, value, added, scale=0.25)
    torch.testing.assert_close(found.double(), textbook(query, key, value, added, 0.25), rtol=1e-4, atol=1e-4)
