"""Slices: which rows are in them, their figures by hand, and the order in which to look at them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from mtl.evaluation.slices import (
    CONTRASTS,
    EMPTY,
    MOST_VALUES,
    NEGATIONS,
    NEGATIVE,
    POSITIVE,
    REST,
    signs_of,
    slice_figures,
    slices,
    terciles,
    wilson,
)


def rows_of(texts: list[str], **columns: list[str]) -> dict[tuple[str, str], list[int]]:
    return {(kind, value): np.flatnonzero(mask).tolist() for kind, value, mask in slices(texts, columns)}


@pytest.mark.parametrize(
    ("text", "signs"),
    [
        ("It is great", ()),
        ("It is NOT great", ("negation",)),
        ("I don’t know", ("negation",)),
        ("I don't know", ("negation",)),
        ("nothing but trouble", ("negation", "contrast")),
        ("great but slow", ("contrast", "mixed")),
        ("fast, not friendly", ("negation", "mixed")),
        ("not fast and not friendly", ("negation",)),
        ("not bad, great", ("negation",)),
        ("not at all in any way great, slow", ("negation", "mixed")),  # four words on the negation has lost its reach
        ("note the knot", ()),
        ("", ()),
    ],
)
def test_signs_of_a_text(text: str, signs: tuple[str, ...]) -> None:
    assert tuple(name for name, value in signs_of(text)._asdict().items() if value) == signs


def test_no_word_stands_for_two_things() -> None:
    lists = (NEGATIONS, CONTRASTS, POSITIVE, NEGATIVE)
    assert len(frozenset().union(*lists)) == sum(map(len, lists))


def test_lengths_are_cut_into_terciles() -> None:
    texts = ["w " * count for count in (1, 2, 3, 4, 5, 6)]
    found = {value: rows for (kind, value), rows in rows_of(texts).items() if kind == "length"}
    assert found == {"up to 2 words": [0, 1], "above 2 up to 4 words": [2, 3], "above 4 words": [4, 5]}


def test_terciles_hold_each_row_once() -> None:
    for values in ([1.0], [1.0, 1.0, 1.0, 5.0], [0.0, 9.0], [3.0, 1.0, 2.0, 2.0, 2.0, 7.5]):
        masks = [mask for _, mask in terciles(np.array(values))]
        assert np.sum(masks, axis=0).tolist() == [1] * len(values)
    assert list(terciles(np.empty(0))) == []


def test_a_column_has_a_slice_for_each_value() -> None:
    found = rows_of(["a"] * 4, airline=["Delta", "", "United", "Delta"])
    assert {value: rows for (kind, value), rows in found.items() if kind == "airline"} == {
        "Delta": [0, 3],
        EMPTY: [1],
        "United": [2],
    }


def test_of_many_values_the_most_frequent_ones_and_the_rest() -> None:
    values = [f"v{at}" for at in range(15)] + [f"v{at}" for at in range(9)]
    found = {value: rows for (kind, value), rows in rows_of(["a"] * 24, city=values).items() if kind == "city"}
    assert list(found) == [*(f"v{at}" for at in range(9)), "v10", REST]  # of equal ones the first by name
    assert len(found) == MOST_VALUES + 1
    assert sorted(row for rows in found.values() for row in rows) == list(range(24))


def test_many_numbers_are_cut_into_terciles() -> None:
    values = [str(at / 2) for at in range(12)] + [" "]
    found = {value: rows for (kind, value), rows in rows_of(["a"] * 13, price=values).items() if kind == "price"}
    assert found == {
        "up to 1.5": [0, 1, 2, 3],
        "above 1.5 up to 3.5": [4, 5, 6, 7],
        "above 3.5": [8, 9, 10, 11],
        EMPTY: [12],
    }


def test_few_numbers_are_values() -> None:
    found = rows_of(["a"] * 3, stars=["1", "5", "1"])
    assert found["stars", "1"] == [0, 2]


def test_wilson_by_hand() -> None:
    """The interval of 8 of 10 in Agresti and Coull (1998), to three digits; and the ends."""
    assert wilson(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)
    assert wilson(0, 5) == pytest.approx((0, 0.4345), abs=1e-3)
    assert wilson(5, 5) == pytest.approx((0.5655, 1), abs=1e-3)


def test_figures_of_a_slice() -> None:
    labels, predicted = ["x", "x", "y", "y", "x", "z"], ["x", "y", "y", "y", "x", "x"]
    figures = slice_figures(["w"] * 6, labels, predicted, {"c": ["1", "1", "1", "0", "0", "0"]})
    one = next(each for each in figures if each.value == "1")
    assert (one.kind, one.support, one.accuracy) == ("c", 3, 2 / 3)
    assert one.difference == pytest.approx(0)
    assert one.extra_errors == pytest.approx(0)
    assert one.macro_f1 == pytest.approx(f1_score(labels[:3], predicted[:3], labels=["x", "y"], average="macro"))
    zero = next(each for each in figures if each.value == "0")  # z was never found, and counts
    assert zero.macro_f1 == pytest.approx(
        f1_score(labels[3:], predicted[3:], labels=["x", "y", "z"], average="macro", zero_division=0)
    )


def test_what_is_worse_than_chance_comes_first_and_what_is_better_last() -> None:
    """Of 300 rows 90 are wrong: 60 of the 100 of ``bad``, 5 of the 10 of ``few``, 25 of 190 of ``good``."""
    column = ["bad"] * 100 + ["few"] * 10 + ["good"] * 190
    wrong = [True] * 60 + [False] * 40 + [True] * 5 + [False] * 5 + [True] * 25 + [False] * 165
    predicted = ["b" if each else "a" for each in wrong]
    figures = slice_figures(["w"] * 300, ["a"] * 300, predicted, {"c": column})
    assert [(each.value, each.beyond_noise) for each in figures] == [("bad", True), ("few", False), ("good", True)]
    assert [each.extra_errors for each in figures] == pytest.approx([30, 2, -32])


def test_a_slice_of_all_rows_or_of_none_is_left_out() -> None:
    assert slice_figures(["w"] * 3, ["a"] * 3, ["a"] * 3, {"c": ["same"] * 3}) == []
    assert slice_figures([], [], [], {"c": []}) == []
