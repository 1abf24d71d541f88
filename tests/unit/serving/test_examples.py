"""The files of examples: their columns of labels, and what is refused before a model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mtl.base.errors import ConfigError, DataError
from mtl.serving import examples
from mtl.serving.examples import read_rows

if TYPE_CHECKING:
    from pathlib import Path

LABELS = {"topic": ("price", "other"), "mood": ("good", "bad")}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    path.write_text("text,label,mood\nfirst,price,good\nsecond,,bad\nthird,other,\n", encoding="utf-8")
    return path


def test_each_task_has_its_labelled_rows(table: Path) -> None:
    rows = read_rows(table, "text", "topic:label,mood", LABELS)
    assert list(rows.texts.texts) == ["first", "second", "third"]
    assert {task: list(labelled.labels) for task, labelled in rows.labelled.items()} == {
        "topic": ["price", "other"],
        "mood": ["good", "bad"],
    }
    assert rows.labelled["mood"].lines.tolist() == [2, 3]


def test_a_single_task_needs_no_name(table: Path) -> None:
    assert list(read_rows(table, "text", "label", {"topic": LABELS["topic"]}).labelled) == ["topic"]


def test_texts_alone(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("first\nsecond\n", encoding="utf-8")
    rows = read_rows(path, "text", None, LABELS)
    assert (len(rows.texts), dict(rows.labelled)) == (2, {})


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (
            "label",
            "expected: TASK:COLUMN, with topic, mood\n      repair:   label_column=topic:label",
        ),
        ("topc:label", "repair:   did you mean topic?"),
        ("mood,mood:label", "expected: one column of labels, not 'text'"),
        ("mood:text", "expected: one column of labels, not 'text'"),
        ("mood:", "expected: one column of labels, not 'text'"),
    ],
)
def test_wrong_columns_of_labels(table: Path, column: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_rows(table, "text", column, LABELS)
    assert problem in str(error.value)


def test_labels_of_another_task(table: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read_rows(table, "text", "topic:mood", LABELS)
    assert str(error.value) == (
        "Configuration: 1 problem\n"
        f"  {table}: mood\n"
        "      found:    the labels bad, good\n"
        "      expected: labels of topic: price, other"
    )


def test_a_missing_column_is_named_with_the_argument(table: Path) -> None:
    with pytest.raises(DataError) as error:
        read_rows(table, "text", "topic:labels", LABELS)
    assert "did you mean label? set label_column=label" in str(error.value)
    with pytest.raises(DataError, match="a column 'sentence'"):
        read_rows(table, "sentence", None, LABELS)


def test_too_many_rows(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "MOST_ROWS", 2)
    with pytest.raises(ConfigError, match="3 rows\n      expected: at most 2\n      repair:   take a sample of them"):
        read_rows(table, "text", None, LABELS)
