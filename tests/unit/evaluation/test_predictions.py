"""The files of predictions: what a spreadsheet sees, and that reading gives back what was written."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from mtl.base.errors import DataError
from mtl.evaluation.predictions import (
    ConfusionExample,
    Predictions,
    confusion_examples,
    predictions_path,
    read_predictions,
    write_predictions,
)


def predictions(*texts: str) -> Predictions:
    """Return rows that are all labelled ``a, b`` and taken for ``=c``."""
    rows = len(texts)
    return Predictions(
        classes=["a, b", "=c"],
        texts=texts,
        labels=["a, b"] * rows,
        predicted=["=c"] * rows,
        probabilities=np.tile(np.array([0.25, 0.75], np.float32), (rows, 1)),
        sources=[f"reviews.csv:{row + 2}" for row in range(rows)],
    )


def written(tmp_path: Path, *texts: str) -> Path:
    path = predictions_path(tmp_path, "sentiment", "test")
    write_predictions(path, predictions(*texts))
    return path


def problem_of(path: Path, content: str) -> str:
    path.write_text(content, encoding="utf-8", newline="")
    with pytest.raises(DataError) as error:
        read_predictions(path)
    return str(error.value)


def test_bytes_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, 'Good, "really"\ngood', "=1+1")
    assert path == tmp_path / "predictions" / "sentiment_test.csv"
    assert path.read_bytes().decode() == (
        '"text","label","predicted","p(a, b)","p(=c)","source"\r\n'
        '"Good, ""really""\ngood","a, b","\'=c",0.25,0.75,"reviews.csv:2"\r\n'
        '"\'=1+1","a, b","\'=c",0.25,0.75,"reviews.csv:3"\r\n'
    )


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
@pytest.mark.parametrize("quotes", ["", "'", "''"])
def test_no_cell_is_a_formula_and_reading_undoes_it(tmp_path: Path, sign: str, quotes: str) -> None:
    text = f"{quotes}{sign}cmd|' /C calc'!A0"
    path = written(tmp_path, text)
    with path.open(encoding="utf-8", newline="") as file:
        cell = list(csv.reader(file))[1][0]
    assert cell == f"'{text}"
    assert read_predictions(path).texts == [text]


@pytest.mark.parametrize("text", ["'quoted' text", "a=b", " =1", "x\ty", "3 - 2", "'", ""])
def test_other_cells_stay_as_they_are(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file))[1][0] == text
    assert read_predictions(path).texts == [text]


def test_reading_gives_back_everything(tmp_path: Path) -> None:
    before = predictions("Grüße \U0001f600", 'a\r\nb;"c"', "x" * 200_000)
    write_predictions(tmp_path / "a.csv", before)
    limit = csv.field_size_limit()
    after = read_predictions(tmp_path / "a.csv")
    assert csv.field_size_limit() == limit
    assert list(after.classes) == list(before.classes)
    assert list(after.texts) == list(before.texts)
    assert list(after.labels) == list(before.labels)
    assert list(after.predicted) == list(before.predicted)
    assert list(after.sources) == list(before.sources)
    np.testing.assert_allclose(after.probabilities, before.probabilities, atol=1e-6)


def test_no_rows(tmp_path: Path) -> None:
    read = read_predictions(written(tmp_path))
    assert len(read) == 0
    assert read.probabilities.shape == (0, 2)


def test_a_byte_order_mark_is_no_part_of_the_heading(tmp_path: Path) -> None:
    path = written(tmp_path, "text")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_predictions(path).texts == ["text"]


def test_all_broken_rows_are_named_together(tmp_path: Path) -> None:
    content = (
        "text,label,predicted,p(a),p(b),source\r\n"
        '"two\nlines",a,b,0.5,0.5,x.csv:2\r\n'
        "short,a\r\n"
        "odd,c,b,half,1.5,x.csv:4\r\n"
        "diverged,a,a,nan,nan,x.csv:5\r\n"
    )
    path = tmp_path / "a.csv"
    assert problem_of(path, content) == (
        "Data: 6 problems\n"
        f"  {path}:4\n"
        "      found:    2 cells\n"
        "      expected: 6 cells as in the heading\n"
        f"  {path}:5\n"
        "      found:    label 'c'\n"
        "      expected: one of the classes of the heading: a, b\n"
        f"  {path}:5\n"
        "      found:    p(a) 'half'\n"
        "      expected: a number from 0 to 1\n"
        f"  {path}:5\n"
        "      found:    p(b) '1.5'\n"
        "      expected: a number from 0 to 1\n"
        f"  {path}:6\n"
        "      found:    p(a) 'nan'\n"
        "      expected: a number from 0 to 1\n"
        f"  {path}:6\n"
        "      found:    p(b) 'nan'\n"
        "      expected: a number from 0 to 1"
    )


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "an empty file"),
        ("text,label\r\n", "text, label"),
        ("text,label,predicted,source\r\n", "text, label, predicted, source"),
        ("text,label,predicted,p(a),p(a),source\r\n", "text, label, predicted, p(a), p(a), source"),
        ("text,label,predicted,a,b,source\r\n", "text, label, predicted, a, b, source"),
    ],
)
def test_another_heading(tmp_path: Path, content: str, found: str) -> None:
    path = tmp_path / "a.csv"
    assert problem_of(path, content) == (
        "Data: 1 problem\n"
        f"  {path}:1\n"
        f"      found:    {found}\n"
        "      expected: text, label, predicted, p(<label>) for each class, source"
    )


def test_a_cut_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert problem_of(path, 'text,label,predicted,p(a),p(b),source\r\n"never closed') == (
        "Data: 1 problem\n"
        f"  {path}:2\n"
        "      found:    broken CSV: unexpected end of data\n"
        "      expected: records as in RFC 4180"
    )


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read_predictions(tmp_path / "a.csv")
    assert str(error.value) == (
        "Data: 1 problem\n"
        f"  {tmp_path / 'a.csv'}\n"
        "      found:    not readable: No such file or directory\n"
        "      expected: the predictions of a run\n"
        "      repair:   evaluate the run again: it writes this file"
    )


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\r\nGrüße,a".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8 text: invalid start byte") as error:
        read_predictions(tmp_path / "a.csv")
    assert error.value.problems[0].repair == "save the file as UTF-8"


def test_the_surest_wrong_rows_stand_for_a_confusion() -> None:
    rows = Predictions(
        classes=["a", "b"],
        texts=["right", "unsure", "sure", "other"],
        labels=["a", "a", "a", "b"],
        predicted=["a", "b", "b", "a"],
        probabilities=np.array([[0.9, 0.1], [0.4, 0.6], [0.1, 0.9], [0.7, 0.3]]),
        sources=["x:1", "x:2", "x:3", "x:4"],
    )
    surest = {
        ("a", "b"): [ConfusionExample("sure", "x:3", 0.9), ConfusionExample("unsure", "x:2", 0.6)],
        ("b", "a"): [ConfusionExample("other", "x:4", 0.7)],
    }
    assert confusion_examples(rows) == surest
    assert confusion_examples(rows, most=1) == {pair: examples[:1] for pair, examples in surest.items()}
