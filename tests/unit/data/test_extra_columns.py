"""Further columns of the data files: kept as text through reading, splitting and the cache, and missed when absent."""

from __future__ import annotations

import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtl.base.errors import DataError
from mtl.data.examples import Examples, read_examples
from mtl.data.tasks import TaskSpec, load_task

CSV = 'text,label,airline,n\n"a, b",x,Delta,1\nc,y,,2.5\nd,x,"Uni\nted",\n'


def extra(examples: Examples) -> dict[str, list[str]]:
    return {name: list(values) for name, values in examples.extra.items()}


def refusal(path: Path, *columns: str, key: str = "data.tasks.topic") -> str:
    with pytest.raises(DataError) as caught:
        read_examples(path, extra=columns, config_key=key)
    return str(caught.value).replace(str(path), path.name)


def test_columns_of_a_csv_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    found = read_examples(tmp_path / "a.csv", extra=["n", "airline"])
    assert extra(found) == {"n": ["1", "2.5", ""], "airline": ["Delta", "", "Uni\nted"]}
    assert extra(found.select([2, 0])) == {"n": ["", "1"], "airline": ["Uni\nted", "Delta"]}
    assert list(found.texts) == ["a, b", "c", "d"]
    assert extra(read_examples(tmp_path / "a.csv")) == {}
    assert extra(read_examples(tmp_path / "a.csv", extra=["n"])) == {"n": ["1", "2.5", ""]}


def test_values_of_every_kind_in_json_lines(tmp_path: Path) -> None:
    values = ['"Delta"', "null", "true", "3", "2.5", '["a"]', '"\\ud800 \\u0000"', None]
    lines = [
        f'{{"text": "t{at}", "label": "x"{"" if v is None else f", {chr(34)}v{chr(34)}: {v}"}}}'
        for at, v in enumerate(values)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = read_examples(tmp_path / "a.jsonl", extra=["v"])
    assert extra(found) == {"v": ["Delta", "", "true", "3", "2.5", "['a']", "\ufffd \ufffd", ""]}


def test_values_of_every_type_in_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": ["a", "b"],
            "label": ["x", "y"],
            "line": ["ours?", "no"],  # a column that is called like one of our own
            "day": [datetime.date(2024, 1, 2), None],
            "price": [1.5, 2.0],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    found = read_examples(tmp_path / "a.parquet", extra=["line", "day", "price"])
    assert extra(found) == {"line": ["ours?", "no"], "day": ["2024-01-02", ""], "price": ["1.5", "2.0"]}
    assert found.lines.tolist() == [1, 2]


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    assert refusal(tmp_path / "a.csv", "airlin", "country") == (
        "Data: 2 problems\n"
        "  a.csv:1\n"
        "      found:    columns 'text', 'label', 'airline', 'n'\n"
        "      expected: a column 'airlin', which data.tasks.topic.slices names\n"
        "      repair:   did you mean airline? correct data.tasks.topic.slices\n"
        "  a.csv:1\n"
        "      found:    columns 'text', 'label', 'airline', 'n'\n"
        "      expected: a column 'country', which data.tasks.topic.slices names\n"
        "      repair:   name columns of the file in data.tasks.topic.slices, or take 'country' out"
    )


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_missing_column_in_other_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"text": ["a"], "label": ["x"]}), path)
    else:
        path.write_text('{"text": "a", "label": "x"}\n')
    assert "columns 'text', 'label'" in refusal(path, "country", key="")
    assert "a column 'country', which slices names" in refusal(path, "country", key="")


def test_a_column_that_stands_twice(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label,c,c\na,x,1,2\n")
    assert "2 columns named 'c'" in refusal(tmp_path / "a.csv", "c")


def test_the_splits_of_a_task_have_them(tmp_path: Path) -> None:
    rows = "".join(f"text {at},{'xy'[at % 2]},{at % 5}\n" for at in range(50))
    (tmp_path / "a.csv").write_text(f"text,label,c\n{rows}")
    task = load_task(TaskSpec("topic", path=tmp_path / "a.csv", slices=("c",)), seed=1)
    for examples in task.splits.values():
        assert len(examples)
        numbers = [int(text.removeprefix("text ")) for text in examples.texts]
        assert extra(examples) == {"c": [str(number % 5) for number in numbers]}
