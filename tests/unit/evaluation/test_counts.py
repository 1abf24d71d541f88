"""Counts and F1 of arrays and tensors of any leading shape: equal to those of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics

from mtl.evaluation.counts import class_f1, confusion_matrix, f1_scores, macro_f1

CLASSES = 6
"""Of which rows have the first four, and predictions the first five."""


def rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, 4, 50), random.integers(0, 5, 50)


def expected_f1(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    scores: np.ndarray = metrics.f1_score(labels, predicted, labels=range(CLASSES), average=None, zero_division=0)
    return scores


def test_counts_are_those_of_scikit_learn() -> None:
    labels, predicted = rows(0)
    expected = metrics.confusion_matrix(labels, predicted, labels=range(CLASSES))
    assert (confusion_matrix(labels, predicted, CLASSES) == expected).all()


def test_f1_is_that_of_scikit_learn_for_any_leading_shape() -> None:
    pairs = [rows(seed) for seed in range(6)]
    confusions = np.array([confusion_matrix(*pair, CLASSES) for pair in pairs]).reshape(2, 3, CLASSES, CLASSES)
    right, total = np.einsum("...cc->...c", confusions), confusions.sum(axis=-1) + confusions.sum(axis=-2)
    expected = np.array([expected_f1(*pair) for pair in pairs]).reshape(2, 3, CLASSES)
    np.testing.assert_allclose(f1_scores(right, total), expected, rtol=1e-15)
    tensors = (torch.from_numpy(values).double() for values in (right, total))
    np.testing.assert_allclose(f1_scores(*tensors).numpy(), expected, rtol=1e-15)


def test_macro_f1_is_that_of_scikit_learn() -> None:
    labels, predicted = rows(0)
    np.testing.assert_allclose(class_f1(labels, predicted, CLASSES), expected_f1(labels, predicted), rtol=1e-15)
    assert macro_f1(labels, predicted, CLASSES) == pytest.approx(expected_f1(labels, predicted).mean(), rel=1e-15)


def test_without_rows_f1_is_0() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    assert macro_f1(nothing, nothing, CLASSES) == 0.0
