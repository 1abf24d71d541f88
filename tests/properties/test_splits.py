"""What holds of a stratified split of any table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mtl.data.splits import stratified_split


@dataclass(frozen=True)
class Case:
    """A table and how to split it."""

    keys: NDArray[np.uint64]
    labels: NDArray[np.int64]
    fractions: tuple[float, ...]
    seed: int

    def split(self) -> list[NDArray[np.int64]]:
        return stratified_split(self.keys, self.labels, self.fractions, self.seed)


@st.composite
def cases(draw: st.DrawFn, *, contradictions: bool = True, repeats: bool = True) -> Case:
    """Draw tables of up to 80 rows, with texts that repeat, and with texts of several labels if wanted."""
    texts = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40, unique=True))
    own_labels = draw(st.lists(st.integers(0, 5), min_size=len(texts), max_size=len(texts)))
    rows = list(zip(texts, own_labels, strict=True))
    if repeats:
        more = draw(st.lists(st.tuples(st.sampled_from(rows), st.integers(0, 5)), max_size=40))
        rows += [(text, other if contradictions else label) for (text, label), other in more]
    rows = draw(st.permutations(rows))
    weights = draw(st.lists(st.integers(1, 10), min_size=2, max_size=3))
    fractions = tuple(weight / sum(weights) for weight in weights)
    keys, labels = zip(*rows, strict=True)
    return Case(np.array(keys, np.uint64), np.array(labels, np.int64), fractions, draw(st.integers(-(2**70), 2**70)))


@given(cases())
def test_each_row_is_in_exactly_one_part(case: Case) -> None:
    parts = case.split()
    assert len(parts) == len(case.fractions)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(case.keys)))
    assert all((np.diff(part) > 0).all() and part.dtype == np.int64 for part in parts)


@given(cases())
def test_the_same_text_is_in_one_part(case: Case) -> None:
    texts = [set(case.keys[part].tolist()) for part in case.split()]
    assert sum(map(len, texts)) == len(set().union(*texts))


@given(cases())
def test_each_label_is_trained_on(case: Case) -> None:
    assert set(case.labels[case.split()[0]].tolist()) == set(case.labels.tolist())


@given(cases(contradictions=False))
def test_each_label_with_enough_texts_is_in_each_part(case: Case) -> None:
    parts = case.split()
    for label in set(case.labels.tolist()):
        if len(set(case.keys[case.labels == label].tolist())) >= len(parts):
            assert all(label in case.labels[part] for part in parts)


@given(cases(contradictions=False))
def test_a_part_is_empty_only_if_nothing_can_be_spared(case: Case) -> None:
    spare = len(set(case.keys.tolist())) - len(set(case.labels.tolist()))
    held_out = case.split()[1:]
    assert sum(len(part) > 0 for part in held_out) >= min(spare, len(held_out))


@given(cases(repeats=False))
def test_each_share_is_right_to_within_one_row(case: Case) -> None:
    parts = case.split()
    for label in set(case.labels.tolist()):
        count = int((case.labels == label).sum())
        if count < 3 * len(parts) / min(case.fractions):
            continue
        for part, fraction in zip(parts[1:], case.fractions[1:], strict=True):
            assert abs(int((case.labels[part] == label).sum()) - count * fraction) <= 1


@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(case: Case, random: object) -> None:
    order = np.random.default_rng(random.randrange(2**32)).permutation(len(case.keys))  # type: ignore[attr-defined]
    moved = Case(case.keys[order], case.labels[order], case.fractions, case.seed)
    for part, moved_part in zip(case.split(), moved.split(), strict=True):
        assert sorted(order[moved_part].tolist()) == part.tolist()


@given(cases())
def test_the_same_seed_gives_the_same_split(case: Case) -> None:
    for first, second in zip(case.split(), case.split(), strict=True):
        assert first.tolist() == second.tolist()
