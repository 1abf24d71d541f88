"""Reading good files: what arrives is what was written, from the cache too, and the table over it."""

from __future__ import annotations

import csv
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtl.base.errors import DataError
from mtl.data import examples as module
from mtl.data import table
from mtl.data.examples import Examples, read_examples, read_texts
from mtl.data.problems import Columns, ProblemLog
from mtl.data.readers import Row
from mtl.data.row_checks import valid_rows

TEXTS = ["It is good.", 'He said "no", twice', "two\nlines", "naïve café 🙂", "  kept as it is  ", "-"]
LABELS = ["pos", "neg", "neg", "pos", "0", "1"]


@pytest.fixture
def reviews(tmp_path: Path) -> Examples:
    """Five rows; the third has two lines."""
    path = tmp_path / "reviews.csv"
    path.write_text('text,label\na,x\nb,y\n"c\nd",x\n A,z\ne,y\n')
    return read_examples(path)


def written(path: Path, texts: list[str], labels: list[str]) -> Path:
    """Write the rows in the format that the suffix tells."""
    rows = list(zip(texts, labels, strict=True))
    if path.suffix.lower() in {".csv", ".tsv"}:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([("id", "text", "label"), *((i, *row) for i, row in enumerate(rows))])
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({"label": labels, "text": texts}), path)
    else:
        lines = [json.dumps({"text": text, "label": label, "more": [1]}, ensure_ascii=False) for text, label in rows]
        path.write_text("\n\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet", "A.CSV"])
def test_all_formats_give_the_same_rows(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, TEXTS, LABELS)
    fresh, cached = read_examples(path), read_examples(path)
    for examples in (fresh, cached):
        assert list(examples.texts) == TEXTS
        assert list(examples.labels) == LABELS


def test_rows_know_the_line_in_which_they_start(reviews: Examples) -> None:
    assert (reviews.texts[2], reviews.labels[2], reviews.source(2)) == ("c\nd", "x", "reviews.csv:4")
    assert reviews.sources() == ["reviews.csv:2", "reviews.csv:3", "reviews.csv:4", "reviews.csv:6", "reviews.csv:7"]
    assert reviews.select([3, 0]).sources() == ["reviews.csv:6", "reviews.csv:2"]


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("a.jsonl", '{"text": "a", "label": 1}\n\n{"text": "b", "label": 0}', [1, 3]),
        ("a.csv", "text,label\r\na,1\r\n\r\nb,0\r\n", [2, 4]),
        ("a.csv", "text,label\ra,1\r\rb,0", [2, 4]),
        ("a.csv", "text,label\n\n\na,1\nb,0", [4, 5]),
        ("a.csv", "\ufefftext,label\na,1\nb,0", [2, 3]),
        ("a.jsonl", '\ufeff{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n', [1, 2]),
        ("a.tsv", "\ufefftext\tlabel\na\t1\nb\t0\n", [2, 3]),
    ],
)
def test_line_ends_blank_lines_and_byte_order_marks(tmp_path: Path, name: str, content: str, lines: list[int]) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    examples = read_examples(path)
    assert list(zip(examples.texts, examples.labels, strict=True)) == [("a", "1"), ("b", "0")]
    assert examples.lines.tolist() == lines


def test_numbers_and_booleans_become_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(f'{{"text": "t", "label": {value}}}' for value in ("0", "1", "true", "false", '"1"')))
    assert list(read_examples(path).labels) == ["0", "1", "true", "false", "1"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array([0, 1], pa.int8()), ["0", "1"]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
    ],
)
def test_label_types_of_parquet(tmp_path: Path, labels: pa.Array, expected: list[str]) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array(["x", "x"]).dictionary_encode(), "label": labels}), path)
    examples = read_examples(path)
    assert list(examples.labels) == expected
    assert examples.sources() == ["a.parquet:1", "a.parquet:2"]


SPARSE = {
    "a.csv": "text,label\na,x\nb,\n,  \nd,y\n",
    "a.jsonl": '{"text": "a", "label": "x"}\n{"text": "b", "label": null}\n{"text": ""}\n{"text": "d", "label": "y"}\n',
    "b.jsonl": '{"text": "c"}\n{"text": "a", "label": "x"}\n{"text": "b", "label": ""}\n{"text": "d", "label": "y"}\n',
    "a.parquet": "",
}


@pytest.mark.parametrize("name", SPARSE)
def test_rows_without_a_label_are_left_out_and_counted(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(SPARSE[name])
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": ["a", "b", None, "d"], "label": ["x", None, None, "y"]}), path)
    for _ in ("read", "from the cache"):
        examples = read_examples(path, missing="skip")
        assert list(zip(examples.texts, examples.labels, strict=True)) == [("a", "x"), ("d", "y")]
        assert examples.without_label == 2
        assert examples.distinct_labels() == ["x", "y"]
        assert examples.label_codes(["y", "x"]).tolist() == [1, 0]
        assert examples.select([1]).sources() == [f"{name}:{4 if name == 'a.parquet' else examples.lines[1]}"]
    with pytest.raises(DataError):
        read_examples(path)


@pytest.mark.parametrize(
    ("name", "content", "place", "found"),
    [
        ("a.csv", "text,label\na,\nb,\n", "", "no label in the column 'label' of 2 rows"),
        ("a.csv", "text,lable\na,x\n", ":1", "columns 'text', 'lable'"),
        ("a.jsonl", '{"text": "a", "lable": "x"}\n{"text": "b"}\n', ":1", "columns 'text', 'lable'"),
        ("a.jsonl", '{"text": "a", "label": null}\n', "", "no label in the column 'label' of 1 row"),
    ],
)
def test_a_column_without_any_label(tmp_path: Path, name: str, content: str, place: str, found: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        read_examples(path, missing="skip")
    assert [(problem.place, problem.found) for problem in caught.value.problems] == [(f"{path}{place}", found)]


def test_named_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("label,my text,text\nx,y,z\n")
    for columns, row in {("my text", "text"): ("y", "z"), ("text", "label"): ("z", "x")}.items():
        examples = read_examples(path, *columns)
        assert (examples.texts[0], examples.labels[0]) == row


def test_columns_are_sequences(reviews: Examples) -> None:
    texts = reviews.texts
    assert len(texts) == 5
    assert (texts[0], texts[-1], texts[1:4], texts[::2]) == ("a", "e", ["b", "c\nd", " A"], ["a", "c\nd", "e"])
    assert "b" in texts
    with pytest.raises(IndexError):
        texts[5]


def test_select_composes(reviews: Examples) -> None:
    chosen = reviews.select([4, 2, 0])
    assert chosen.sources() == ["reviews.csv:7", "reviews.csv:4", "reviews.csv:2"]
    assert list(chosen.select([2, 1]).texts) == ["a", "c\nd"]
    assert chosen.texts[1:] == ["c\nd", "a"]
    assert chosen.source(2) == reviews.source(0)
    assert len(reviews.select([])) == 0
    assert list(reviews.select([]).texts) == []


def test_labels_as_numbers(reviews: Examples) -> None:
    assert reviews.distinct_labels() == ["x", "y", "z"]
    assert reviews.select([0, 2]).distinct_labels() == ["x"]
    assert reviews.label_codes(["y", "x"]).tolist() == [1, 0, 1, -1, 0]
    assert reviews.select([3, 1]).label_codes(("y", "x")).tolist() == [-1, 0]
    assert reviews.label_codes(["y"]).dtype == np.int64


def test_keys_fold_case_and_white_space(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    texts = ["Straße  gut", "STRASSE\\tGut ", "strasse gut", "strassegut"]
    path.write_text("\n".join(f'{{"text": "{text}", "label": 1}}' for text in texts))
    keys = read_examples(path).keys
    assert keys.dtype == np.uint64
    assert keys[0] == keys[1] == keys[2] != keys[3]


def test_a_pickled_table_maps_the_same_file(reviews: Examples) -> None:
    chosen = reviews.select([3, 1])
    content = pickle.dumps(chosen)
    assert len(content) < 5000
    assert list(pickle.loads(content).texts) == list(chosen.texts)  # noqa: S301


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "good\n\n  bad one \r\nlast"),
        ("a.csv", "id,text,label\n1,good,\n2,  bad one ,x\n3,last,\n"),
        ("a.jsonl", '{"text": "good"}\n{"text": "  bad one "}\n{"text": "last", "label": null}'),
    ],
)
def test_texts_need_no_labels(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    texts = read_texts(path)
    assert list(texts.texts) == ["good", "  bad one ", "last"]
    assert texts.texts[1] == "  bad one "
    assert list(texts.select([2]).texts) == ["last"]


def test_sources_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n\nthree\n")
    assert read_texts(path).sources() == ["a.txt:1", "a.txt:3"]


# The cache.


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache files, empty and of the test alone."""
    monkeypatch.setenv("MTL_CACHE_DIR", str(tmp_path / "mine"))
    return tmp_path / "mine" / "examples"


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count how often a file was parsed."""
    calls: list[object] = []

    def counted(rows: Iterator[Row], columns: Columns, log: ProblemLog) -> Iterator[tuple[object, ...]]:
        calls.append(rows)
        return valid_rows(rows, columns, log)

    monkeypatch.setattr(module, "valid_rows", counted)
    return lambda: len(calls)


def cached_files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_a_second_load_does_not_parse(tmp_path: Path, cache: Path, parses: Callable[[], int]) -> None:
    path = written(tmp_path / "a.csv", TEXTS, LABELS)
    for _ in range(2):
        assert list(read_examples(path).texts) == TEXTS
    assert parses() == 1
    assert [file.suffix for file in cached_files(cache)] == [".arrow"]


def test_content_columns_and_format_have_their_own_cache(
    tmp_path: Path, cache: Path, parses: Callable[[], int]
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label,other\na,b,c\n")
    read_examples(path)
    read_examples(path, label_column="other")
    read_texts(path)
    path.write_text("text,label,other\na,x,c\n")
    assert read_examples(path).labels[0] == "x"
    assert parses() == len(cached_files(cache)) == 4
    moved = path.rename(tmp_path / "b.csv")
    assert read_examples(moved).source(0) == "b.csv:2"
    assert parses() == 4


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "longer"])
def test_a_damaged_cache_file_is_written_again(
    tmp_path: Path, cache: Path, parses: Callable[[], int], damage: str
) -> None:
    path = written(tmp_path / "a.csv", TEXTS, LABELS)
    read_examples(path)
    (file,) = cached_files(cache)
    content = file.read_bytes()
    at = content.index(b"It is good.")
    flipped = content[:at] + b"X" + content[at + 1 :]
    file.write_bytes({"cut": content[:-40], "flip": flipped, "empty": b"", "longer": content + b"x"}[damage])
    assert list(read_examples(path).texts) == TEXTS
    assert parses() == 2
    assert file.read_bytes() == content


def test_a_refused_file_leaves_no_cache(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,b\n,b\n")
    with pytest.raises(DataError):
        read_examples(path)
    assert cached_files(cache) == []


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,b\n")
    states = iter([(1, 10), (2, 20)])
    monkeypatch.setattr(module, "_state", lambda _: next(states))
    with pytest.raises(DataError) as caught:
        read_examples(path)
    assert str(caught.value) == (
        f"Data: 1 problem\n  {path}\n      found:    a file that changed while it was read\n"
        "      expected: a file at rest\n      repair:   run again when it is written"
    )


def test_without_a_cache_that_can_be_written_rows_are_kept_for_the_process_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path / "a.csv", TEXTS, LABELS)
    folder = tmp_path / "occupied"
    folder.write_text("a file")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setenv("MTL_CACHE_DIR", str(folder))
    assert list(read_examples(path).texts) == TEXTS
    assert f"the rows of {path} are not kept: the cache {folder / 'examples'} cannot be written" in caplog.text
    assert not list(temporary.iterdir())


def test_neither_a_cache_nor_a_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.csv", TEXTS, LABELS)
    folder = tmp_path / "occupied"
    folder.write_text("a file")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("MTL_CACHE_DIR", str(folder))
    with pytest.raises(DataError) as caught:
        read_examples(path)
    assert str(caught.value) == (
        f"Data: 1 problem\n  {folder / 'examples'}\n"
        "      found:    a cache folder that cannot be written (Not a directory), and no temporary folder either\n"
        "      expected: a writable folder with free space\n"
        "      repair:   set MTL_CACHE_DIR to another folder, or free some space"
    )


def test_a_cache_that_is_cleared_in_between_is_filled_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a.csv", TEXTS, LABELS)
    read_examples(path)
    mapped = table.mapped

    def cleared(target: Path) -> Any:
        monkeypatch.setattr(table, "mapped", mapped)
        target.unlink()
        return mapped(target)

    monkeypatch.setattr(table, "mapped", cleared)
    assert len(read_examples(path)) == len(TEXTS)


def test_the_default_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.csv", TEXTS, LABELS)
    monkeypatch.setenv("MTL_CACHE_DIR", str(tmp_path / "mine"))
    read_examples(path)
    assert len(cached_files(tmp_path / "mine" / "examples")) == 1
    monkeypatch.delenv("MTL_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    read_examples(path)
    assert len(cached_files(tmp_path / "home" / ".cache" / "mtl" / "examples")) == 1


def test_files_larger_than_a_batch(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_ROWS_PER_BATCH", 7)
    monkeypatch.setattr(module, "_MOST_CHARACTERS_PER_BATCH", 40)
    texts = [f"text number {i} " * (i % 3 + 1) for i in range(100)]
    path = written(tmp_path / "a.csv", texts, ["x", "y"] * 50)
    examples = read_examples(path)
    assert examples.texts[:] == list(examples.texts) == texts
    assert examples.texts[95:] == texts[95:]
    assert [examples.texts[i] for i in range(100)] == texts
    assert examples.lines.tolist() == list(range(2, 102))


def test_importing_takes_no_datasets_and_reading_writes_nothing_else(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", TEXTS, LABELS)
    home = tmp_path / "home"
    home.mkdir()
    program = (
        "import sys; from mtl.data import tasks, examples; assert 'datasets' not in sys.modules;"
        f"examples.read_examples({str(path)!r}).select([1, 0]); assert 'datasets' not in sys.modules"
    )
    environment = {"HOME": str(home), "MTL_CACHE_DIR": str(home / "cache"), "HF_HOME": str(home / "hf"), "PATH": ""}
    command = [sys.executable, "-W", "error", "-c", program]
    checkout = Path(module.__file__).parents[2]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=checkout)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [file.suffix for file in home.rglob("*") if file.is_file()] == [".arrow"]
