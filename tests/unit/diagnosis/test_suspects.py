from __future__ import annotations

import numpy as np

from mtl.diagnosis.cross_validation import Rows, out_of_sample
from mtl.diagnosis.suspects import confident_joint, rank_suspects

PROBABILITIES = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7], [0.7, 0.3], [0.4, 0.6]])
LABELS = np.array([0, 0, 0, 1, 1, 1])


def test_the_confident_joint_by_hand() -> None:
    """Thresholds: class 0 (0.9 + 0.8 + 0.1) / 3 = 0.6, class 1 (0.7 + 0.3 + 0.6) / 3 = 0.533."""
    joint = confident_joint(PROBABILITIES, LABELS)
    assert joint.tolist() == [[2, 1], [1, 2]]
    assert rank_suspects(PROBABILITIES, LABELS).count == 2


def test_a_row_that_reaches_no_threshold_is_not_counted() -> None:
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.5, 0.5]])
    assert confident_joint(probabilities, np.array([0, 1, 0])).tolist() == [[1, 0], [0, 1]]


def test_a_class_without_rows_takes_none() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]])
    assert confident_joint(probabilities, np.array([0, 0]))[:, 1:].sum() == 0


def test_the_least_probable_label_comes_first() -> None:
    found = rank_suspects(PROBABILITIES, LABELS)
    assert found.order.tolist() == [2, 4, 5, 3, 1, 0]
    assert found.scores.tolist() == [0.1, 0.3, 0.6, 0.7, 0.8, 0.9]
    assert found.suggested.tolist() == [1, 0, 0, 0, 1, 1]
    assert found.count == 2


def test_exchanged_labels_of_separable_classes_are_found() -> None:
    random = np.random.default_rng(0)
    true = random.integers(3, size=300)
    embeddings = (3.0 * np.eye(3)[true] + random.normal(size=(300, 3))).astype(np.float32)
    wrong = random.choice(300, 15, replace=False)
    labels = true.copy()
    labels[wrong] = (true[wrong] + random.integers(1, 3, size=15)) % 3
    unseen = out_of_sample(Rows(embeddings, labels, np.arange(300, dtype=np.uint64)), 3, random)
    found = rank_suspects(unseen.probabilities, labels)
    right = np.isin(found.order[:30], wrong)
    assert right.sum() >= 13
    assert (found.suggested[:30][right] == true[found.order[:30][right]]).mean() >= 0.9


def test_the_view_that_tells_more_is_taken_and_each_has_a_penalty() -> None:
    random = np.random.default_rng(1)
    labels = np.repeat([0, 1], 50)
    noise = random.normal(size=(100, 4)).astype(np.float32)
    telling = noise + 3 * labels[:, None].astype(np.float32)
    rows = Rows(noise, labels, np.arange(100, dtype=np.uint64))
    alone = out_of_sample(rows, 2, np.random.default_rng(2))
    both = out_of_sample(rows, 2, np.random.default_rng(2), views=[telling])
    assert len(alone.penalties) == 1
    assert len(both.penalties) == 2
    np.testing.assert_allclose(both.probabilities.sum(axis=1), 1.0, atol=1e-6)
    own = np.arange(100), labels
    assert both.probabilities[own].mean() > alone.probabilities[own].mean() + 0.15


def test_what_is_said_of_a_row_does_not_depend_on_its_label() -> None:
    """Random labels on random embeddings: a head that had seen them would know them."""
    random = np.random.default_rng(4)
    embeddings = random.normal(size=(200, 100)).astype(np.float32)
    labels = random.integers(2, size=200)
    unseen = out_of_sample(Rows(embeddings, labels, np.arange(200, dtype=np.uint64)), 2, random)
    assert (unseen.probabilities.argmax(axis=1) == labels).mean() < 0.65
