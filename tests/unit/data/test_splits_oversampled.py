"""Oversampling: how often each row comes, worked out by hand, and that a seed decides which come once more."""

from __future__ import annotations

import numpy as np
import pytest

from mtl.data.splits import oversampled_rows

LABELS = np.repeat([0, 1, 2], [16, 4, 1])


def slots(strength: float, labels: np.ndarray = LABELS, *, task: str = "topic", seed: int = 0) -> np.ndarray:
    return oversampled_rows(labels, strength, task=task, seed=seed)


@pytest.mark.parametrize(
    ("strength", "counts"),
    [(0.0, [16, 4, 1]), (0.5, [16, 8, 4]), (1.0, [16, 16, 16]), (0.25, [16, 6, 2])],  # 2 * (8, 2.83, 1)
)
def test_slots_of_each_class(strength: float, counts: list[int]) -> None:
    assert np.bincount(LABELS[slots(strength)]).tolist() == counts


def test_rows_come_equally_often_up_to_one() -> None:
    times = np.bincount(slots(0.25), minlength=len(LABELS))
    assert times[:16].tolist() == [1] * 16
    assert sorted(times[16:20].tolist()) == [1, 1, 2, 2]
    assert times[20] == 2


def test_without_strength_each_row_is_its_own_slot() -> None:
    assert slots(0.0).tolist() == list(range(21))


def test_a_seed_and_the_task_decide_which_rows_come_once_more() -> None:
    labels = np.repeat([0, 1], [90, 40])
    assert slots(0.5, labels, seed=3).tolist() == slots(0.5, labels, seed=3).tolist()
    assert slots(0.5, labels, seed=3).tolist() != slots(0.5, labels, seed=4).tolist()
    assert slots(0.5, labels, task="a").tolist() != slots(0.5, labels, task="b").tolist()


def test_a_class_without_rows_has_no_slots() -> None:
    labels = np.array([0, 0, 0, 2])
    assert np.bincount(labels[slots(1.0, labels)]).tolist() == [3, 0, 3]


def test_no_rows_have_no_slots() -> None:
    assert slots(0.5, np.empty(0, dtype=np.int64)).tolist() == []
