"""Splits of small tables, with figures that can be checked by hand."""

from __future__ import annotations

import numpy as np

from mtl.data.splits import stratified_split

FRACTIONS = (0.8, 0.1, 0.1)


def keys_of(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint64)


def shares(parts: list[np.ndarray], labels: np.ndarray) -> list[list[int]]:
    """Return the rows per part and label."""
    return [np.bincount(labels[part], minlength=labels.max() + 1).tolist() for part in parts]


def test_each_part_has_its_share_of_each_label() -> None:
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    parts = stratified_split(keys_of(1000), labels, FRACTIONS, seed=1)
    assert shares(parts, labels) == [[560, 160, 80], [70, 20, 10], [70, 20, 10]]


def test_what_rounding_leaves_over_is_carried_to_the_next_label() -> None:
    labels = np.repeat(np.arange(10), 14)
    parts = stratified_split(keys_of(140), labels, FRACTIONS, seed=1)
    assert [len(part) for part in parts] == [112, 14, 14]
    assert set(np.bincount(labels[parts[1]]).tolist()) == {1, 2}


def test_small_labels_are_in_every_part() -> None:
    labels = np.repeat([0, 1, 2], [100, 3, 4])
    parts = stratified_split(keys_of(107), labels, FRACTIONS, seed=1)
    assert shares(parts, labels) == [[80, 1, 2], [10, 1, 1], [10, 1, 1]]


def test_labels_with_too_few_texts_stay_in_training() -> None:
    labels = np.repeat([0, 1], [98, 2])
    parts = stratified_split(keys_of(100), labels, FRACTIONS, seed=1)
    assert shares(parts, labels)[0][1] >= 1


def test_the_split_is_the_same_on_every_machine() -> None:
    parts = stratified_split(keys_of(20), np.arange(20) % 2, (0.6, 0.2, 0.2), seed=7)
    assert [part.tolist() for part in parts[1:]] == [[12, 15, 16, 19], [1, 7, 8, 18]]


def test_another_seed_gives_another_split() -> None:
    labels = np.zeros(1000, dtype=np.int64)
    held_out = [set(stratified_split(keys_of(1000), labels, (0.5, 0.5), seed)[1].tolist()) for seed in (-1, 0, 1)]
    for first, second in ((0, 1), (1, 2), (0, 2)):
        assert 200 < len(held_out[first] & held_out[second]) < 300


def test_the_same_text_stays_together() -> None:
    keys = np.repeat(keys_of(50), 4)
    labels = np.repeat(np.arange(50) % 2, 4)
    parts = stratified_split(keys, labels, FRACTIONS, seed=3)
    assert sum(len(np.unique(keys[part])) for part in parts) == 50
    assert shares(parts, labels) == [[84, 76], [8, 12], [8, 12]]


def test_a_text_too_frequent_to_hold_out_is_trained_on() -> None:
    keys = np.concatenate([np.zeros(500, dtype=np.uint64), keys_of(500) + np.uint64(1)])
    for seed in range(20):
        parts = stratified_split(keys, np.zeros(1000, dtype=np.int64), FRACTIONS, seed)
        assert [len(part) for part in parts] == [800, 100, 100]


def test_a_label_of_contradicted_texts_only_is_trained_on() -> None:
    keys = np.array([0, 0, 1, 1, 2, 2], dtype=np.uint64)
    labels = np.array([0, 1, 0, 2, 0, 3])
    for seed in range(20):
        train = stratified_split(keys, labels, (0.5, 0.5), seed)[0]
        assert set(labels[train].tolist()) == {0, 1, 2, 3}


def test_a_part_that_holds_out_much_gives_to_one_that_is_empty() -> None:
    labels = np.array([0, 0, 1, 1, 2])
    parts = stratified_split(keys_of(5), labels, (0.25, 0.5, 0.25), seed=0)
    assert [len(part) for part in parts] == [3, 1, 1]


def test_no_part_is_empty_if_a_label_has_a_text_to_spare() -> None:
    labels = np.array([0, 0, 1, 1])
    parts = stratified_split(keys_of(4), labels, FRACTIONS, seed=0)
    assert [len(part) for part in parts] == [2, 1, 1]
    assert set(labels[parts[0]].tolist()) == {0, 1}


def test_parts_are_empty_if_no_label_has_a_text_to_spare() -> None:
    parts = stratified_split(keys_of(2), np.array([0, 1]), FRACTIONS, seed=0)
    assert [part.tolist() for part in parts] == [[0, 1], [], []]


def test_no_rows() -> None:
    parts = stratified_split(keys_of(0), np.empty(0, dtype=np.int64), FRACTIONS, seed=0)
    assert [part.tolist() for part in parts] == [[], [], []]
