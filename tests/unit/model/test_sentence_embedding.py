"""Pooling: the same as in sentence-transformers, padding does not count, and empty rows do no harm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling

from mtl.base.pooling import POOLINGS, cls_pool, last_token_pool, mean_pool
from mtl.model.layout import ACTIVATIONS, DenseSpec
from mtl.model.sentence_embedding import Dense, pool

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)


@pytest.fixture
def hidden() -> torch.Tensor:
    return torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))


def test_mean_is_that_of_the_real_tokens(hidden: torch.Tensor) -> None:
    expected = torch.stack([hidden[0].mean(0), hidden[1, :2].mean(0), hidden[2, 0]])
    torch.testing.assert_close(mean_pool(hidden, MASK), expected)


def test_cls_is_the_first_real_token(hidden: torch.Tensor) -> None:
    padded_left = MASK.flip(1)
    assert torch.equal(cls_pool(hidden, MASK), hidden[:, 0])
    assert torch.equal(cls_pool(hidden, padded_left), hidden[torch.arange(3), [0, 2, 3]])


def test_last_token_is_the_last_real_one(hidden: torch.Tensor) -> None:
    assert torch.equal(last_token_pool(hidden, MASK), hidden[torch.arange(3), [3, 1, 0]])
    assert torch.equal(last_token_pool(hidden, MASK.flip(1)), hidden[:, 3])


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("name", [*POOLINGS, "mean+max", "lasttoken+cls+weightedmean"])
def test_equal_to_sentence_transformers(name: str, left: bool, hidden: torch.Tensor) -> None:
    mask = MASK.flip(1) if left else MASK
    features = {"token_embeddings": hidden, "attention_mask": mask.long()}
    modes: Any = tuple(name.split("+"))
    expected = Pooling(5, modes)(features)["sentence_embedding"]
    torch.testing.assert_close(pool(name, hidden, mask), expected)


def test_the_poolings_are_those_of_sentence_transformers() -> None:
    assert set(POOLINGS) == set(Pooling.POOLING_MODES)


@pytest.mark.parametrize(("name", "spelled"), ACTIVATIONS.items())
def test_every_activation_is_the_one_that_is_spelled(name: str, spelled: str) -> None:
    kind = type(Dense(DenseSpec(4, 3, activation=name)).activation)
    assert f"{kind.__module__}.{kind.__name__}" == spelled


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("mask_type", [torch.bool, torch.int64, torch.float32])
def test_padding_does_not_count(name: str, mask_type: torch.dtype, hidden: torch.Tensor) -> None:
    spoilt = hidden.masked_fill(~MASK.unsqueeze(-1), float("nan"))
    assert torch.equal(pool(name, spoilt, MASK.to(mask_type)), pool(name, hidden, MASK))


@pytest.mark.parametrize("name", POOLINGS)
def test_result_is_float32_and_its_gradient_stays_on_real_tokens(name: str, hidden: torch.Tensor) -> None:
    leaf = hidden.to(torch.bfloat16).requires_grad_()
    result = pool(name, leaf, MASK)
    torch.autograd.backward(result.sum())
    assert result.dtype == torch.float32
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    assert not leaf.grad[~MASK].any()


def test_mean_sums_in_float32() -> None:
    ones = torch.full((1, 1001, 1), 1.0, dtype=torch.bfloat16)  # bfloat16 cannot count beyond 256
    assert mean_pool(ones, torch.ones(1, 1001)).item() == 1.0


@pytest.mark.parametrize("autocast", [False, True])
def test_autocast_does_not_lower_the_precision(autocast: bool, hidden: torch.Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        result = mean_pool(hidden, MASK)
    assert torch.equal(result, mean_pool(hidden, MASK))


@pytest.mark.parametrize("name", ["mean", "mean_sqrt_len_tokens", "weightedmean", "max"])
def test_row_without_tokens_gives_zeros_and_no_nan(name: str, hidden: torch.Tensor) -> None:
    leaf = hidden.requires_grad_()
    result = pool(name, leaf, torch.zeros(3, 4, dtype=torch.bool))
    torch.autograd.backward(result.sum())
    assert not result.any()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
