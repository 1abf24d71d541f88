"""Error analysis: which mistakes and neighbours are found, the files, and what the report says of them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from markdown_it import MarkdownIt
from numpy.typing import NDArray

from mtl.evaluation import errors
from mtl.evaluation.errors import (
    Neighbour,
    TrainingRows,
    analyse,
    nearest,
    unit_rows,
    write_errors,
)
from mtl.evaluation.predictions import Predictions
from mtl.reporting.sections import error_blocks

TRAINING = TrainingRows(
    texts=["=1+1", "late again", "lovely"],
    labels=["b", "b", "a"],
    sources=["train.csv:2", "train.csv:3", "train.csv:4"],
    embeddings=np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0]]),
    note="among all 3 training rows",
)


def predictions() -> Predictions:
    return Predictions(
        classes=["a", "b"],
        texts=["right", "unsure", "=sure|<b>", "other"],
        labels=["a", "a", "a", "b"],
        predicted=["a", "b", "b", "a"],
        probabilities=np.array([[0.9, 0.1], [0.4, 0.6], [0.1, 0.9], [0.7, 0.3]]),
        sources=["x.csv:1", "x.csv:2", "x.csv:3", "x.csv:4"],
    )


def analysis(most: int = 9) -> errors.ErrorAnalysis:
    rows = predictions().mistakes()[:most]
    embeddings = np.array([[9.0, 9.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    return analyse("test", predictions(), {"c": ["1", "1", "2", "2"]}, rows, embeddings[rows], TRAINING)


def test_the_surest_mistake_comes_first() -> None:
    assert predictions().mistakes().tolist() == [2, 3, 1]
    assert predictions().confidence().tolist() == [0.9, 0.6, 0.9, 0.7]


def test_a_mistake_with_its_neighbours() -> None:
    found = analysis()
    assert (found.rows, found.wrong, found.note) == (4, 3, "among all 3 training rows")
    first = found.mistakes[0]
    assert (first.text, first.label, first.predicted, first.source) == ("=sure|<b>", "a", "b", "x.csv:3")
    assert (first.probability, first.margin) == pytest.approx((0.9, 0.8))
    assert first.nearest[0] == Neighbour("lovely", "a", "train.csv:4", 1.0)
    assert [each.similarity for each in first.nearest] == pytest.approx([1, 0.5**0.5, 0])


def test_a_mistake_whose_neighbours_have_the_predicted_class_is_in_doubt() -> None:
    assert [(each.source, each.contradicts) for each in analysis().mistakes] == [
        ("x.csv:3", True),
        ("x.csv:4", False),
        ("x.csv:2", True),
    ]


def test_neighbours_in_blocks_are_those_of_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_BLOCK", 11)
    random = np.random.default_rng(0)
    queries, bank = random.normal(size=(30, 5)), random.normal(size=(100, 5))
    bank[40:43] = bank[3]  # of equal ones the first
    bank[50] = 0
    cosines = (queries / np.linalg.norm(queries, axis=1)[:, None]) @ (
        bank / np.maximum(np.linalg.norm(bank, axis=1), 1e-9)[:, None]
    ).T
    places, found = nearest(queries, bank)
    np.testing.assert_array_equal(nearest(queries, unit_rows(bank), unit=True)[0], places)
    order = np.argsort(-cosines.astype(np.float32), axis=1, kind="stable")[:, :3]
    np.testing.assert_allclose(found, np.take_along_axis(cosines, order, axis=1), atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(cosines, places, axis=1), found, atol=1e-6)


@given(arrays(np.float32, st.tuples(st.integers(0, 5), st.integers(1, 9)), elements=st.sampled_from([-1, 0, 0.5, 1])))
def test_the_greatest_are_those_of_a_stable_sort(values: NDArray[np.float32]) -> None:
    for count in (1, 3):
        expected = np.argsort(-values, axis=1, kind="stable")[:, :count]
        np.testing.assert_array_equal(errors._greatest(values, count), expected)


def test_few_training_rows_give_few_neighbours() -> None:
    places, cosines = nearest(np.ones((2, 3)), np.ones((1, 3)))
    assert places.tolist() == [[0], [0]]
    assert cosines.shape == (2, 1)
    assert nearest(np.ones((0, 3)), np.ones((4, 3)))[0].shape == (0, 3)


def test_the_file_of_mistakes_starts_no_formula(tmp_path: Path) -> None:
    write_errors(tmp_path, "topic", analysis())
    with (tmp_path / "errors" / "topic_test.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["source"] for row in rows] == ["x.csv:3", "x.csv:4", "x.csv:2"]
    assert {key: rows[0][key] for key in list(rows[0])[:10]} == {
        "text": "'=sure|<b>",
        "label": "a",
        "predicted": "b",
        "probability": "0.9",
        "margin": "0.8",
        "source": "x.csv:3",
        "nearest_1_text": "lovely",
        "nearest_1_label": "a",
        "nearest_1_source": "train.csv:4",
        "nearest_1_similarity": "1.0",
    }
    assert rows[0]["nearest_3_text"] == "'=1+1"


def test_mistakes_without_neighbours_have_empty_cells(tmp_path: Path) -> None:
    rows = predictions().mistakes()[:1]
    write_errors(tmp_path, "topic", analyse("val", predictions(), {}, rows))
    with (tmp_path / "errors" / "topic_val.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert set(list(row.values())[6:]) == {""}


def test_the_file_of_slices(tmp_path: Path) -> None:
    write_errors(tmp_path, "topic", analysis())
    assert (tmp_path / "errors" / "topic_test_slices.csv").read_bytes().decode() == (
        '"slice","value","rows","accuracy","accuracy_low","accuracy_high","macro_f1","difference","extra_errors",'
        '"beyond_noise"\r\n'
        '"c","2",2,0.0,0.0,0.65762,0.0,-0.25,0.5,"no"\r\n'
        '"c","1",2,0.5,0.094531,0.905469,0.666667,0.25,-0.5,"no"\r\n'
    )


def test_the_section_of_a_report() -> None:
    blocks = list(error_blocks("topic", analysis(most=2)))
    assert blocks[:2] == ["**Slices**", "No slice is worse than chance can explain."]
    cells = "c | 2 | 2 | 0.000 | 0.00–0.66 | -0.250 | 0.000 | 0"
    assert f"| {cells} |" in " ".join(blocks[2].split())
    assert "`errors/topic_test_slices.csv`" in blocks[3]
    assert blocks[4] == "**Most confident mistakes** (2 of 3)"
    assert blocks[5].splitlines()[:4] == [
        "- “\\=sure\\|&lt;b&gt;” (topic, `x.csv:3`)  ",
        "  is **a**, taken for **b** (p = 0.900), the label of most of the nearest training rows",
        "  - 1.00 **a**: “lovely” (`train.csv:4`)",
        "  - 0.71 **b**: “late again” (`train.csv:3`)",
    ]
    assert "For 1 of 2 mistakes most of them have the predicted label" in blocks[6]
    assert "The 2 most confident mistakes with the nearest training rows: [`errors/topic_test.csv`]" in blocks[6]


def test_texts_change_nothing_but_themselves() -> None:
    nasty = "a|b `c` <b>d</b>\n# e"
    plain, odd = (
        analyse(
            "test",
            Predictions(["a", "b"], [text] * 2, ["a", "b"], ["b", "b"], np.array([[0.2, 0.8]] * 2), [text] * 2),
            {text: [text, "other"]},
            np.array([0]),
            np.ones((1, 2)),
            TrainingRows([text], [text], [text], np.ones((1, 2)), text),
        )
        for text in ("plain", nasty)
    )
    shapes = [
        [token.type for token in MarkdownIt("commonmark").enable("table").parse("\n\n".join(error_blocks("t", each)))]
        for each in (plain, odd)
    ]
    assert shapes[0] == shapes[1]


def test_a_perfect_task_has_no_mistakes() -> None:
    perfect = Predictions(["a", "b"], ["x"], ["a"], ["a"], np.array([[0.9, 0.1]]), ["x:1"])
    rows = perfect.mistakes()
    assert list(error_blocks("t", analyse("test", perfect, {}, rows))) == []
