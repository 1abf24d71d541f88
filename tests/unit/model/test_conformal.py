"""Prediction sets and abstention: equal to other implementations, and their promises kept on fresh rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import beta, binom

from mtl.model.conformal import CERTAINTY, MOST_ROWS, Outcomes, at_most, outcomes

Rows = tuple[NDArray[np.float64], NDArray[np.int64]]


def rows(random: np.random.Generator, number: int, sharpness: float = 1.5) -> Rows:
    """Draw probabilities ``(N, 3)`` of a head that is overconfident, and labels of unequal classes ``(N,)``."""
    labels = random.choice(3, number, p=[0.6, 0.3, 0.1])
    logits = random.normal(size=(number, 3))
    logits[np.arange(number), labels] += sharpness
    probabilities = np.exp(2 * logits)
    return probabilities / probabilities.sum(axis=1, keepdims=True), labels


def outcomes_of(drawn: Rows) -> Outcomes:
    probabilities, labels = drawn
    return outcomes(probabilities, probabilities.argmax(axis=1), labels)


def test_outcomes() -> None:
    probabilities = np.array([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])
    made = outcomes(probabilities, np.array([0, 1, 0, 1]), np.array([0, 1, 1, 0]))
    assert made == Outcomes(true=[[0.5, 0.7], [0.4, 0.8]], right=[0.7, 0.8], wrong=[0.5, 0.6])


def test_of_many_rows_some_are_kept() -> None:
    made = outcomes_of(rows(np.random.default_rng(0), MOST_ROWS + 1))
    assert sum(map(len, made.true)) == len(made.right) + len(made.wrong) == MOST_ROWS


@pytest.mark.parametrize("coverage", [0.503, 0.803, 0.903, 0.953, 0.993])
def test_the_sets_are_those_of_crepes(coverage: float) -> None:
    """At levels where no p-value is equal to the level: there crepes takes a label in, and the definition does not."""
    crepes = pytest.importorskip("crepes")
    random = np.random.default_rng(1)
    probabilities, labels = (np.floor(values * 1e6) / 1e6 for values in rows(random, 300))
    tested, _ = rows(random, 200)
    known = labels.astype(np.int64)
    theirs = crepes.ConformalClassifier()
    theirs.fit(1 - probabilities[np.arange(300), known], bins=known)
    expected = np.stack(
        [
            theirs.predict_set((1 - tested)[:, [label]], bins=np.full(200, label), confidence=coverage, smoothing=False)
            for label in range(3)
        ],
        axis=1,
    )[..., 0]
    ours = tested >= outcomes(probabilities, probabilities.argmax(axis=1), known).set_thresholds(coverage)
    assert ours.astype(int).tolist() == expected.astype(int).tolist()


@pytest.mark.parametrize("coverage", [0.7, 0.9])
def test_each_class_is_covered(coverage: float) -> None:
    """The mean over validation sets; of each class, the rare one too."""
    random = np.random.default_rng(2)
    fresh, labels = rows(random, 20_000)
    covered = []
    for _ in range(200):
        inside = fresh >= outcomes_of(rows(random, 400)).set_thresholds(coverage)
        holds = inside[np.arange(len(labels)), labels]
        covered.append([holds[labels == label].mean() for label in range(3)])
    means = np.mean(covered, axis=0)
    errors = np.sqrt(np.var(covered, axis=0) / 200 + coverage * (1 - coverage) / np.bincount(labels))
    assert (means > coverage - 3 * errors).all()
    assert (means < coverage + 1 / (0.1 * 400 + 1) + 3 * errors).all()  # not by sets that are needlessly large


def test_labels_with_too_few_rows_together_belong_to_every_set() -> None:
    made = Outcomes(true=[[0.9] * 8, [0.9] * 9, []], right=[], wrong=[])
    assert made.set_thresholds(0.9).tolist() == [0.0, 0.9, 0.0]


def test_labels_with_few_rows_share_a_threshold() -> None:
    made = Outcomes(true=[[0.2, 0.4], [0.9] * 9, [0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9], []], right=[], wrong=[])
    assert made.set_thresholds(0.9).tolist() == [0.1, 0.9, 0.1, 0.1]


def test_rare_labels_are_covered_together() -> None:
    """Forty labels with three validation rows each; the mean over validation sets."""
    random = np.random.default_rng(4)

    def drawn(number: int) -> Rows:
        labels = random.integers(40, size=number)
        logits = random.normal(size=(number, 40))
        logits[np.arange(number), labels] += 3
        odds = np.exp(logits)
        return odds / odds.sum(axis=1, keepdims=True), labels

    fresh, labels = drawn(20_000)
    covered, sizes = [], []
    for _ in range(100):
        inside = fresh >= outcomes_of(drawn(120)).set_thresholds(0.9)
        covered.append(inside[np.arange(len(labels)), labels].mean())
        sizes.append(inside.sum(axis=1).mean())
    error = np.sqrt(np.var(covered) / 100 + 0.09 / len(labels))
    assert np.mean(covered) > 0.9 - 3 * error
    assert np.mean(sizes) < 20  # in place of 40


@pytest.mark.parametrize("risk", [0.05, 0.1])
def test_the_risk_is_kept(risk: float) -> None:
    random = np.random.default_rng(3)
    fresh, labels = rows(random, 50_000, sharpness=2)
    confidence, right = fresh.max(axis=1), fresh.argmax(axis=1) == labels
    broken, shares = 0, []
    for _ in range(300):
        answered = confidence >= outcomes_of(rows(random, 500, sharpness=2)).answer_threshold(risk)
        shares.append(answered.mean())
        broken += bool(answered.any()) and 1 - right[answered].mean() > risk
    assert broken / 300 <= 1 - CERTAINTY + 0.03
    assert 1 - right.mean() > risk  # so that answering all would break it
    assert np.mean(shares) > 0.2


@pytest.mark.parametrize(("coverage", "expected"), [(5e-324, [0.9, 0.8]), (1 - 1e-16, [0.0, 0.0])])
def test_the_ends_of_the_coverage(coverage: float, expected: list[float]) -> None:
    made = Outcomes(true=[[0.1, 0.9], [0.8]], right=[], wrong=[])
    assert made.set_thresholds(coverage).tolist() == expected
    assert made.answer_threshold(coverage) == np.inf


def test_nothing_is_answered_without_evidence() -> None:
    assert Outcomes(true=[[]], right=[], wrong=[]).answer_threshold(0.1) == np.inf
    assert Outcomes(true=[[]], right=[0.9] * 20, wrong=[]).answer_threshold(0.1) == np.inf
    assert Outcomes(true=[[]], right=[0.9] * 100, wrong=[]).answer_threshold(0.1) == 0.9
    assert Outcomes(true=[[]], right=[], wrong=[0.9] * 100).answer_threshold(0.1) == np.inf


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(1e-6, 0.999))
def test_the_probability_is_that_of_scipy(counts: tuple[int, int], rate: float) -> None:
    errors, total = counts
    found = at_most(errors, total, rate)
    assert found == pytest.approx(binom.cdf(errors, total, rate), rel=1e-9)
    if errors < total and abs(found - 0.05) > 1e-6:
        assert (found <= 0.05) == (beta.ppf(0.95, errors + 1, total - errors) <= rate)  # Clopper-Pearson
