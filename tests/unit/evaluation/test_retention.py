"""Retention: the rank correlation against scipy, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics.pairwise import paired_cosine_distances

from mtl.evaluation.records import Retention
from mtl.evaluation.retention import correlation, cosine
from mtl.evaluation.run_summary import retention_row


@pytest.mark.parametrize("levels", [2, 6, 1000])
def test_the_correlation_is_spearmans_also_with_equal_scores(levels: int) -> None:
    random = np.random.default_rng(levels)
    similarities = random.normal(size=200)
    scores = random.integers(0, levels, size=200).astype(np.float64) + 0.1 * similarities
    assert correlation(similarities, scores) == pytest.approx(spearmanr(similarities, scores).statistic, abs=1e-6)


def test_only_the_order_counts() -> None:
    similarities, scores = np.array([0.1, 0.2, 0.9, 0.5]), np.array([1.0, 2.0, 4.0, 3.0])
    assert correlation(similarities, scores) == pytest.approx(1, abs=1e-6)
    assert correlation(np.exp(similarities), scores**3) == pytest.approx(1, abs=1e-6)
    assert correlation(-similarities, scores) == pytest.approx(-1, abs=1e-6)


def test_an_encoder_that_has_collapsed_knows_nothing() -> None:
    assert correlation(np.full(4, 0.7), np.arange(4.0)) == 0.0


def test_the_cosine_of_pairs() -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 20, 8)).astype(np.float32)
    np.testing.assert_allclose(cosine(first, second), 1 - paired_cosine_distances(first, second), atol=1e-6)


def test_a_zero_vector_is_similar_to_nothing() -> None:
    first, second = np.zeros((1, 3), dtype=np.float32), np.ones((1, 3), dtype=np.float32)
    assert cosine(first, second).tolist() == [0.0]


@pytest.mark.parametrize(
    ("retention", "words"),
    [
        (Retention(0.917, 0.917, 108), "0.917, unchanged (Spearman on 108 sentence pairs)"),
        (Retention(0.917, 0.8601, 1500), "0.917 before, 0.860 after: -0.057 (Spearman on 1,500 sentence pairs)"),
        (Retention(0.5, 0.6, 9), "0.500 before, 0.600 after: +0.100 (Spearman on 9 sentence pairs)"),
    ],
)
def test_what_is_said(retention: Retention, words: str) -> None:
    assert retention_row(retention) == ("retention", words)
