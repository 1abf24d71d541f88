from __future__ import annotations

import numpy as np

from mtl.diagnosis.cross_validation import stratified_folds


def test_the_folds_of_a_class_differ_by_one_row_at_most() -> None:
    labels = np.repeat([0, 1, 2], [53, 11, 3])
    folds = stratified_folds(labels, np.arange(67, dtype=np.uint64), 5, np.random.default_rng(0))
    for label in range(3):
        counts = np.bincount(folds[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_the_rows_of_one_text_are_in_one_fold() -> None:
    random = np.random.default_rng(0)
    keys = random.integers(30, size=200).astype(np.uint64)
    folds = stratified_folds(random.integers(3, size=200), keys, 5, random)
    for key in np.unique(keys):
        assert len(set(folds[keys == key].tolist())) == 1


def test_the_same_seed_gives_the_same_folds() -> None:
    labels, keys = np.repeat([0, 1], 50), np.arange(100, dtype=np.uint64)
    one, two, other = (stratified_folds(labels, keys, 5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (one == two).all()
    assert (one != other).any()
