"""What holds of a diagnosis for any labels, probabilities and texts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mtl.diagnosis.cross_validation import stratified_folds
from mtl.diagnosis.data_need import gains
from mtl.diagnosis.duplicates import normalized
from mtl.diagnosis.suspects import confident_joint, rank_suspects


@st.composite
def labelled(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities ``(N, C)`` that sum to 1, and labels."""
    rows, classes = draw(st.integers(1, 30)), draw(st.integers(2, 5))
    raw = draw(arrays(np.float64, (rows, classes), elements=st.floats(0.01, 1.0)))
    labels = draw(arrays(np.int64, rows, elements=st.integers(0, classes - 1)))
    return raw / raw.sum(axis=1, keepdims=True), labels


@given(labelled())
def test_suspects_are_all_rows_once_by_rising_probability_of_their_label(case: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = case
    found = rank_suspects(probabilities, labels)
    assert sorted(found.order.tolist()) == list(range(len(labels)))
    assert (np.diff(found.scores) >= 0).all()
    assert (found.suggested != labels[found.order]).all()
    assert 0 <= found.count <= len(labels)


@given(labelled(), st.randoms(use_true_random=False))
def test_the_order_of_the_classes_does_not_matter(case: tuple[np.ndarray, np.ndarray], random: object) -> None:
    probabilities, labels = case
    classes = probabilities.shape[1]
    order = np.arange(classes)
    random.shuffle(order)  # type: ignore[attr-defined]
    renamed = confident_joint(probabilities[:, order], np.argsort(order)[labels])
    joint = confident_joint(probabilities, labels)
    assert renamed.diagonal().tolist() == joint.diagonal()[order].tolist()
    assert renamed.sum() == joint.sum()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 2**32), st.integers(2, 6))
def test_folds_part_the_rows_and_no_text(keys: list[int], seed: int, count: int) -> None:
    labels = np.arange(len(keys)) % 3
    texts = np.array(keys, dtype=np.uint64)
    folds = stratified_folds(labels, texts, count, np.random.default_rng(seed))
    assert folds.shape == labels.shape
    assert ((folds >= 0) & (folds < count)).all()
    assert all(len(set(folds[texts == key].tolist())) == 1 for key in set(keys))


@given(st.text(max_size=40))
def test_normalising_twice_is_normalising_once_for_case_and_spaces(text: str) -> None:
    once = normalized(text)
    assert normalized(f"  {once}\n") == normalized(once)


@given(arrays(np.float64, (4, 3), elements=st.floats(0, 1)), st.floats(-1, 1))
def test_gains_are_those_of_the_curves_shape(scores: np.ndarray, shift: float) -> None:
    """A constant added to all curves changes no gain, and turned curves lose what the others gain."""
    rows = np.array([16.0, 26.0, 40.0])
    found = gains(rows, scores, 50, 100)
    np.testing.assert_allclose(gains(rows, scores + shift, 50, 100), found, atol=1e-4)
    np.testing.assert_allclose(gains(rows, -scores, 50, 100), -found, atol=1e-9)
