"""Weights of classes and offsets of logits, against figures worked out by hand and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from mtl.training.losses import balanced_weights, effective_number_weights, logit_offsets

COUNTS = np.array([6, 3, 1])


def test_balanced_weights_by_hand() -> None:
    assert balanced_weights(COUNTS).tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert balanced_weights(np.array([5, 5])).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("counts", [[6, 3, 1], [1, 1000], [7, 7, 7, 1], [489, 300, 40, 5]])
def test_balanced_weights_are_those_of_scikit_learn(counts: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
    assert balanced_weights(np.array(counts)) == pytest.approx(expected)


def test_a_power_makes_balanced_weights_milder_with_a_mean_of_1_over_the_rows() -> None:
    weights = balanced_weights(COUNTS, 0.5)
    assert weights[2] / weights[0] == pytest.approx(math.sqrt(6))
    assert weights[1] / weights[0] == pytest.approx(math.sqrt(2))
    assert (weights * COUNTS).sum() == pytest.approx(10)
    assert balanced_weights(COUNTS, 0.0).tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_effective_numbers_by_hand() -> None:
    effective = [1 + 0.9 + 0.81 + 0.729 + 0.6561 + 0.59049, 1 + 0.9 + 0.81, 1.0]  # sums of powers of beta
    weights = effective_number_weights(COUNTS, 0.9)
    assert (weights / weights[2]).tolist() == pytest.approx([1 / each for each in effective])
    assert (weights * COUNTS).sum() == pytest.approx(10)


def test_effective_numbers_lie_between_no_weights_and_balanced_ones() -> None:
    assert effective_number_weights(COUNTS, 0.0).tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert effective_number_weights(COUNTS, 1 - 1e-9).tolist() == pytest.approx(balanced_weights(COUNTS), rel=1e-6)


def test_offsets_are_the_log_frequencies_times_tau() -> None:
    assert logit_offsets(COUNTS, 1.0).tolist() == pytest.approx([math.log(0.6), math.log(0.3), math.log(0.1)])
    assert logit_offsets(COUNTS, 0.5).tolist() == pytest.approx([math.log(x) / 2 for x in (0.6, 0.3, 0.1)])
    assert logit_offsets(COUNTS, 0.0).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("counts", [[4, 0, 2], [0, 0, 3], [0, 0]])
def test_a_class_without_rows_divides_nothing_by_zero(counts: list[int]) -> None:
    found = np.array(counts)
    rows = found.sum()
    for weights in (balanced_weights(found), balanced_weights(found, 0.5), effective_number_weights(found, 0.99)):
        assert np.isfinite(weights).all()
        assert (weights[found == 0] == 1).all()
        assert (weights * found).sum() == pytest.approx(rows)
    assert np.isfinite(logit_offsets(found, 1.0)).all()
    assert logit_offsets(np.array([4, 0, 2]), 1.0).tolist() == pytest.approx([math.log(x / 6) for x in (4, 1, 2)])


def test_the_other_classes_weigh_as_if_one_without_rows_were_not_there() -> None:
    assert balanced_weights(np.array([4, 0, 2]))[[0, 2]].tolist() == balanced_weights(np.array([4, 2])).tolist()
