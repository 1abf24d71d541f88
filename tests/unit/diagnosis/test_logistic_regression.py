from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from mtl.diagnosis import logistic_regression
from mtl.diagnosis.logistic_regression import Scaling, fit_heads, logits, predict_refitted, refit_columns

RANDOM = np.random.default_rng(3)
LABELS = np.repeat([0, 1, 2], [60, 30, 10])
EMBEDDINGS = (RANDOM.normal(size=(100, 8)) + LABELS[:, None] * 0.5).astype(np.float32)
FEATURES, CLASSES = torch.from_numpy(EMBEDDINGS), torch.from_numpy(LABELS)


def fitted(weights: torch.Tensor, penalties: list[float], **rest: torch.Tensor) -> torch.Tensor:
    return logits(FEATURES, fit_heads(FEATURES, CLASSES, weights, torch.tensor(penalties), 3, **rest)).softmax(dim=-1)


@pytest.mark.parametrize("penalty", [0.1, 1.0, 10.0])
def test_a_head_is_scikit_learns_logistic_regression(penalty: float) -> None:
    weights = RANDOM.uniform(0.2, 2.0, size=100).astype(np.float32)
    expected = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=1000).fit(EMBEDDINGS, LABELS, weights)
    found = fitted(torch.from_numpy(weights)[None], [penalty])[0].numpy()
    np.testing.assert_allclose(found, expected.predict_proba(EMBEDDINGS), atol=2e-3)


def test_heads_that_are_fitted_together_are_those_fitted_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.from_numpy(RANDOM.integers(0, 2, size=(5, 100)).astype(np.float32))
    penalties = [0.3, 0.3, 1.0, 3.0, 0.1]
    together = fitted(weights, penalties)
    alone = torch.cat([fitted(weights[at : at + 1], penalties[at : at + 1]) for at in range(5)])
    torch.testing.assert_close(together, alone, atol=2e-2, rtol=0)  # where float32 lets the optimizer stop
    monkeypatch.setattr(logistic_regression, "MOST_LOGITS", 2 * 100 * 3)  # two at a time
    torch.testing.assert_close(fitted(weights, penalties), alone, atol=2e-2, rtol=0)


def test_a_row_of_weight_0_is_left_out() -> None:
    weights = torch.ones(1, 100)
    weights[:, 70:] = 0
    without = fit_heads(FEATURES[:70], CLASSES[:70], torch.ones(1, 70), torch.tensor([1.0]), 3)
    torch.testing.assert_close(fitted(weights, [1.0]), logits(FEATURES, without).softmax(dim=-1))


def test_the_start_does_not_decide_the_end() -> None:
    start = torch.from_numpy(RANDOM.normal(size=(9, 3)).astype(np.float32))
    torch.testing.assert_close(
        fitted(torch.ones(1, 100), [1.0]), fitted(torch.ones(1, 100), [1.0], start=start), atol=3e-3, rtol=0
    )


def test_the_same_input_gives_the_same_head() -> None:
    assert torch.equal(fitted(torch.ones(1, 100), [1.0]), fitted(torch.ones(1, 100), [1.0]))


def test_scaled_embeddings_have_mean_0_and_length_1_whatever_their_unit() -> None:
    scaled = Scaling.of(EMBEDDINGS)(EMBEDDINGS)
    torch.testing.assert_close(scaled.mean(dim=0), torch.zeros(8), atol=1e-5, rtol=0)
    assert float(scaled.square().sum(dim=1).mean()) == pytest.approx(1.0, abs=1e-4)
    torch.testing.assert_close(scaled, Scaling.of(100 * EMBEDDINGS)(100 * EMBEDDINGS), atol=1e-4, rtol=0)


def test_embeddings_that_are_all_the_same_are_scaled_to_0() -> None:
    same = np.full((4, 3), 2.0, dtype=np.float32)
    assert torch.equal(Scaling.of(same)(same), torch.zeros(4, 3))


def test_a_refitted_column_is_the_best_one_beside_the_others() -> None:
    """The whole cross-entropy with the penalty has no slope along the column."""
    head = fit_heads(FEATURES, CLASSES, torch.ones(1, 100), torch.tensor([0.3]), 3)[0]
    weights = torch.ones(2, 100)
    weights[0, :30] = weights[1, 60:80] = 0
    columns = torch.tensor([0, 1])
    for weight, column, found in zip(
        weights, columns, refit_columns(FEATURES, CLASSES, weights, 0.3, head, columns), strict=True
    ):
        whole = head.clone()
        whole[:, column] = found
        whole.requires_grad_()
        losses = nn.functional.cross_entropy(logits(FEATURES, whole[None])[0], CLASSES, reduction="none")
        loss = (weight * losses).sum() + 0.3 / 2 * whole[:-1].square().sum()
        (slope,) = torch.autograd.grad(loss / weight.sum(), whole)
        assert float(slope[:, column].abs().max()) < 1e-4
        assert not torch.equal(whole[:, column], head[:, column])


def test_heads_with_an_exchanged_column_predict_what_whole_heads_do() -> None:
    random = torch.Generator().manual_seed(1)
    head, refitted = torch.randn(9, 5, generator=random), torch.randn(7, 9, generator=random)
    columns = torch.tensor([0, 1, 2, 3, 4, 0, 4])
    whole = head.repeat(7, 1, 1)
    whole[torch.arange(7), :, columns] = refitted
    expected = logits(FEATURES, whole).argmax(dim=2)
    assert torch.equal(predict_refitted(FEATURES, head, columns, refitted), expected)
