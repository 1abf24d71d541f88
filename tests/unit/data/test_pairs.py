"""Sentence pairs: read from each format, and every problem of a file at once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from mtl.base.errors import DataError
from mtl.data.pairs import Pairs, read_pairs
from mtl.training.inputs import BUNDLED
from tests.support.configs import composed

ROWS = [("one", "uno", 5), ("two", "due, tre", 2.5), ("three", "four", 0)]


def read(path: Path) -> Pairs:
    return read_pairs(path, "sentence1", "sentence2", "score")


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    return str(caught.value).replace(str(path), path.name)


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def test_each_format_gives_the_same_pairs(tmp_path: Path) -> None:
    quoted = 'sentence1,sentence2,score\none,uno,5\ntwo,"due, tre",2.5\nthree,four,0\n'
    tabs = "score\tother\tsentence2\tsentence1\n5\tx\tuno\tone\n2.5\tx\tdue, tre\ttwo\n0\tx\tfour\tthree\n"
    lines = "".join(json.dumps(dict(zip(("sentence1", "sentence2", "score"), row, strict=True))) + "\n" for row in ROWS)
    for name, content in {"a.csv": quoted, "b.tsv": tabs, "c.jsonl": lines}.items():
        pairs = read(write(tmp_path / name, content))
        assert list(zip(pairs.first, pairs.second, pairs.scores.tolist(), strict=True)) == ROWS


def test_the_pairs_that_ship_are_the_default_and_have_all_scores_equally_often() -> None:
    path = composed()["retention"]["path"]
    pairs = read(Path("mtl/data/bundled") / path.removeprefix(BUNDLED))
    assert Counter(pairs.scores.tolist()) == dict.fromkeys(map(float, range(6)), 18)
    assert len(set(zip(pairs.first, pairs.second, strict=True))) == len(pairs) == 108


def test_every_problem_of_a_file_is_named(tmp_path: Path) -> None:
    content = "sentence1,sentence2,score\na,b,much\n,d,1\ne,f,nan\ng, ,2\ni,j\nk,l,inf\n"
    expected = """Data: 6 problems
  pairs.csv:2
      found:    a score that is no finite number: 'much'
      expected: a number
      repair:   write a number, or remove the row
  pairs.csv:3
      found:    an empty text
      expected: a text with at least one visible character
      repair:   fill in the text, or remove the row
  pairs.csv:4
      found:    a score that is no finite number: 'nan'
      expected: a number
      repair:   write a number, or remove the row
  pairs.csv:5
      found:    a text of white space only (' ')
      expected: a text with at least one visible character
      repair:   fill in the text, or remove the row
  pairs.csv:6
      found:    2 fields
      expected: 3 fields, as in the header: sentence1, sentence2, score
      repair:   add the missing fields, empty ones too, with a comma between each two
  pairs.csv:7
      found:    a score that is no finite number: 'inf'
      expected: a number
      repair:   write a number, or remove the row"""
    assert refused(write(tmp_path / "pairs.csv", content)) == expected


def test_every_column_that_misses_is_named_with_its_key(tmp_path: Path) -> None:
    expected = """Data: 3 problems
  pairs.csv:1
      found:    columns 'first', 'second', 'scores'
      expected: a column 'sentence1'
      repair:   name the column that holds the first sentences with retention.first_column=, or add a header line
  pairs.csv:1
      found:    columns 'first', 'second', 'scores'
      expected: a column 'sentence2'
      repair:   name the column that holds the second sentences with retention.second_column=, or add a header line
  pairs.csv:1
      found:    columns 'first', 'second', 'scores'
      expected: a column 'score'
      repair:   did you mean scores? set retention.score_column=scores"""
    assert refused(write(tmp_path / "pairs.csv", "first,second,scores\na,b,1\n")) == expected


@pytest.mark.parametrize(
    ("rows", "found", "expected", "repair"),
    [
        ("", "0 pairs", "at least 3 pairs", "add pairs, or name another file"),
        ("a,b,1\nc,d,2\n", "2 pairs", "at least 3 pairs", "add pairs, or name another file"),
        (
            "a,b,1\nc,d,1\ne,f,1.0\n",
            "the same score everywhere",
            "at least two different scores",
            "a rank needs an order",
        ),
    ],
)
def test_pairs_that_give_no_rank(tmp_path: Path, rows: str, found: str, expected: str, repair: str) -> None:
    path = write(tmp_path / "pairs.csv", f"sentence1,sentence2,score\n{rows}")
    text = (
        f"Data: 1 problem\n  pairs.csv\n      found:    {found}\n      expected: {expected}\n      repair:   {repair}"
    )
    assert refused(path) == text


def test_scores_that_are_no_numbers_in_json(tmp_path: Path) -> None:
    values = ["true", "null", "[1]", '"3"']
    lines = "".join(f'{{"sentence1": "a", "sentence2": "b", "score": {value}}}\n' for value in values)
    text = refused(write(tmp_path / "pairs.jsonl", lines))
    assert [line.strip() for line in text.splitlines() if "found" in line] == [
        "found:    a score that is no finite number: True",
        "found:    a score that is no finite number: None",
        "found:    a score that is no finite number: [1]",
    ]


def test_parquet_is_refused_by_name(tmp_path: Path) -> None:
    assert (
        refused(write(tmp_path / "pairs.parquet", "x"))
        == """Data: 1 problem
  pairs.parquet
      found:    a file with the suffix '.parquet'
      expected: .csv, .tsv, .jsonl, .json
      repair:   convert the file, or rename it if it is in one of these formats"""
    )
