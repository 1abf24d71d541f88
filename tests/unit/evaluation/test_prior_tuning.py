"""The decision rule for rare classes: what the bias is, when it is taken, and when the evidence is too thin for it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from mtl.evaluation.counts import macro_f1
from mtl.evaluation.prior_tuning import TAUS, _standard_error, prior_bias, tune_prior

COUNTS = np.array([900, 90, 10])
Rows = tuple[NDArray[np.float64], NDArray[np.int64]]


def long_tail(rows: int, seed: int = 0, sharpness: float = 1.5) -> Rows:
    """Return logits of a head that has learned the classes' frequencies, and labels that follow them."""
    random = np.random.default_rng(seed)
    labels = random.choice(3, size=rows, p=COUNTS / COUNTS.sum())
    logits = random.normal(size=(rows, 3)) + sharpness * np.eye(3)[labels]
    return logits * sharpness + np.log(COUNTS / COUNTS.sum()), labels


def test_the_bias_by_hand() -> None:
    assert prior_bias(np.array([3, 1]), 0.5).tolist() == pytest.approx([-0.5 * math.log(0.75), -0.5 * math.log(0.25)])
    assert prior_bias(np.array([3, 1]), 0.0).tolist() == [0.0, 0.0]


def test_a_class_without_training_rows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^expected at least one training row of each class, found \[3, 0\]$"):
        prior_bias(np.array([3, 0]), 1.0)


def test_rare_classes_gain_where_the_evidence_is_clear() -> None:
    logits, labels = long_tail(20_000)
    tau = tune_prior(logits, labels, COUNTS, seed=0)
    assert 0 < tau < 1
    others, truth = long_tail(20_000, seed=1)
    after = (others + prior_bias(COUNTS, tau)).argmax(axis=1)
    assert macro_f1(truth, after, 3) > macro_f1(truth, others.argmax(axis=1), 3) + 0.02


def test_what_few_rows_say_by_chance_is_not_taken() -> None:
    """On logits without any meaning nothing is to be gained: the best of the grid is luck."""
    chosen = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        logits, labels = random.normal(size=(60, 3)), random.integers(0, 3, 60)
        scores = [macro_f1(labels, (logits + prior_bias(COUNTS, tau)).argmax(axis=1), 3) for tau in TAUS]
        best = TAUS[int(np.argmax(scores))]
        chosen.append((abs(tune_prior(logits, labels, COUNTS, seed=seed)), abs(best)))
    assert all(found <= best for found, best in chosen)
    assert sum(found < best for found, best in chosen) >= 5


def test_equal_frequencies_and_no_rows_change_nothing() -> None:
    logits, labels = long_tail(200)
    assert tune_prior(logits, labels, np.array([7, 7, 7]), seed=0) == 0.0
    assert tune_prior(np.empty((0, 3)), np.empty(0, dtype=int), COUNTS, seed=0) == 0.0


def test_a_head_that_overrates_rare_classes_is_held_back() -> None:
    logits, labels = long_tail(20_000)
    overrated = logits + prior_bias(COUNTS, 1.5)
    assert tune_prior(overrated, labels, COUNTS, seed=0) < 0


def test_the_standard_error_is_that_of_a_bootstrap_over_rows() -> None:
    logits, labels = long_tail(300)
    one, other = logits.argmax(axis=1), (logits + prior_bias(COUNTS, 0.75)).argmax(axis=1)
    random = np.random.default_rng(5)
    gains = []
    for _ in range(2000):
        rows = random.integers(0, 300, 300)
        gains.append(macro_f1(labels[rows], one[rows], 3) - macro_f1(labels[rows], other[rows], 3))
    assert _standard_error(labels, one, other, 3, seed=0) == pytest.approx(np.std(gains), rel=0.12)
    assert _standard_error(labels, one, one, 3, seed=0) == 0.0
