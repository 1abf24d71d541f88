from __future__ import annotations

import numpy as np
import pytest

from mtl.diagnosis import duplicates as module
from mtl.diagnosis.duplicates import duplicates, normalized, text_groups


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Great phone!", "great   PHONE"),
        ("it's late...", "It s late"),
        ("ｆｕｌｌ width", "full width"),
        ("Straße", "STRASSE"),
        ("a\tb\n", "a b"),
    ],
)
def test_texts_that_count_as_equal(one: str, other: str) -> None:
    assert normalized(one) == normalized(other)


@pytest.mark.parametrize(("one", "other"), [("good", "no good"), (":-)", ":-("), ("5 stars", "1 stars"), ("é", "e")])
def test_texts_that_do_not(one: str, other: str) -> None:
    assert normalized(one) != normalized(other)


def brute(units: np.ndarray, groups: np.ndarray, first_rows: int, threshold: float) -> set[tuple[int, int]]:
    return {
        (one, two)
        for one in range(first_rows)
        for two in range(one + 1, len(units))
        if groups[one] == groups[two] or float(units[one] @ units[two]) >= threshold
    }


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_find_what_comparing_each_with_each_finds(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(60, 3)).astype(np.float32)
    groups = random.integers(40, size=60)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    monkeypatch.setattr(module, "CHUNK", chunk)
    found = duplicates(vectors, groups, 45, 0.98)
    assert {(pair.first, pair.second) for pair in found} == brute(units, groups, 45, 0.98)
    assert len(found) == len({(pair.first, pair.second) for pair in found})


def test_equal_texts_come_first_then_by_cosine() -> None:
    vectors = np.array([[1, 0], [1, 0.1], [1, 0], [0, 1]], dtype=np.float32)
    found = duplicates(vectors, text_groups(["a", "b", "c", "A!"]), 4, 0.9)
    assert [(pair.first, pair.second, pair.same_text) for pair in found] == [
        (0, 3, True),
        (0, 2, False),
        (0, 1, False),
        (1, 2, False),
    ]
    assert found[0].cosine == pytest.approx(0.0)


def test_not_more_pairs_are_kept_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PAIRS", 10)
    assert len(duplicates(np.ones((50, 2), dtype=np.float32), np.zeros(50, dtype=np.int64), 50, 0.9)) == 10


def test_pairs_of_two_later_rows_are_not_sought() -> None:
    assert duplicates(np.ones((4, 2), dtype=np.float32), np.arange(4), 0, 0.9) == []
