"""Properties of what makes up for rare classes: losses, class weights and repeated rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mtl.data.splits import oversampled_rows
from mtl.training.losses import FocalLoss, TaskLoss, balanced_weights, effective_number_weights

counts = st.lists(st.integers(1, 2000), min_size=2, max_size=8).map(np.array)
some_counts = st.lists(st.integers(0, 60), min_size=2, max_size=6).filter(any).map(np.array)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Return logits ``(B, C)`` and class ids ``(B,)``."""
    rows, classes, seed = draw(st.integers(1, 9)), draw(st.integers(2, 6)), draw(st.integers(0, 10**6))
    random = torch.Generator().manual_seed(seed)
    scale = draw(st.sampled_from([0.1, 1.0, 10.0]))
    return torch.randn(rows, classes, generator=random) * scale, torch.randint(classes, (rows,), generator=random)


smoothing = st.sampled_from([0.0, 0.1, 0.9])


@settings(deadline=None)
@given(batches(), smoothing)
def test_what_changes_nothing_equals_plain_cross_entropy(batch: tuple[Tensor, Tensor], smoothing: float) -> None:
    logits, labels = batch
    classes = logits.shape[1]
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    for loss in (
        TaskLoss(label_smoothing=smoothing),
        FocalLoss(gamma=0.0, label_smoothing=smoothing),
        TaskLoss(weights=[1.0] * classes, label_smoothing=smoothing),
        TaskLoss(offsets=[3.0] * classes, label_smoothing=smoothing),
        TaskLoss(weights=balanced_weights(np.full(classes, 7)).tolist(), label_smoothing=smoothing),
    ):
        torch.testing.assert_close(loss(logits, labels), expected, rtol=1e-4, atol=1e-5)


@settings(deadline=None)
@given(batches(), st.floats(0.05, 5.0), smoothing)
def test_the_loss_of_a_batch_is_the_mean_of_the_losses_of_its_rows(
    batch: tuple[Tensor, Tensor], gamma: float, smoothing: float
) -> None:
    logits, labels = batch
    weights = torch.arange(1.0, logits.shape[1] + 1).tolist()
    loss = FocalLoss(weights=weights, offsets=weights, gamma=gamma, label_smoothing=smoothing)
    rows = torch.stack([loss(logits[at : at + 1], labels[at : at + 1]) for at in range(len(labels))])
    torch.testing.assert_close(loss(logits, labels), rows.mean(), rtol=1e-4, atol=1e-5)


@settings(deadline=None)
@given(batches(), st.floats(0.05, 5.0), smoothing, st.sampled_from([1.0, 100.0, 1e4]))
def test_losses_and_their_gradients_are_finite(
    batch: tuple[Tensor, Tensor], gamma: float, smoothing: float, scale: float
) -> None:
    logits, labels = (batch[0] * scale).requires_grad_(), batch[1]
    loss = FocalLoss(weights=[2.0] * logits.shape[1], gamma=gamma, label_smoothing=smoothing)(logits, labels)
    loss.backward()
    assert torch.isfinite(loss)
    assert loss >= 0
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@settings(deadline=None)
@given(some_counts, st.floats(0, 1), st.floats(0, 0.9999))
def test_weights_have_a_mean_of_1_over_the_rows_and_rise_as_classes_get_rarer(
    counts: np.ndarray, power: float, beta: float
) -> None:
    for weights in (balanced_weights(counts, power), effective_number_weights(counts, beta)):
        assert (weights * counts).sum() == pytest.approx(counts.sum())
        present = np.flatnonzero(counts)
        by_count = present[np.argsort(counts[present], kind="stable")]
        assert (np.diff(weights[by_count]) <= 1e-9).all()


@settings(deadline=None)
@given(counts.filter(lambda found: found.sum() < 4000), st.floats(0, 1), st.integers(0, 9))
def test_each_row_comes_at_least_once_and_classes_in_their_shares(
    counts: np.ndarray, strength: float, seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    slots = oversampled_rows(labels, strength, task="topic", seed=seed)
    times = np.bincount(slots, minlength=len(labels))
    assert (times >= 1).all()
    found = np.bincount(labels[slots])
    assert found == pytest.approx(counts.max() ** strength * counts ** (1 - strength), abs=0.5 + 1e-6)
    for label in range(len(counts)):
        assert np.ptp(times[labels == label]) <= 1
    assert (np.diff(slots) >= 0).all()
