"""Any text and label that a file can hold comes back as it was, from the file and from the cache."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl.base.errors import DataError
from mtl.data.examples import Examples, read_examples

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30).filter(str.strip)
tables = st.lists(st.tuples(texts, texts), min_size=1, max_size=10)


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    """Write the rows in the format that the suffix tells."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows))
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            delimiter = "," if path.suffix == ".csv" else "\t"
            csv.writer(file, delimiter=delimiter).writerows([("text", "label"), *rows])


@settings(deadline=None, max_examples=50)
@given(tables, st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]))
def test_what_is_written_is_read(rows: list[tuple[str, str]], suffix: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        write(path, rows)
        for _ in range(2):
            examples = read_examples(path)
            assert list(zip(examples.texts, examples.labels, strict=True)) == rows


def outcome(path: Path) -> Examples | DataError:
    try:
        return read_examples(path)
    except DataError as error:
        return error


@settings(deadline=None, max_examples=200)
@given(
    st.binary(max_size=60) | st.text('ab",\t\n\r {}:[]', max_size=60).map(str.encode),
    st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet"]),
)
def test_any_bytes_are_read_or_refused(content: bytes, name: str) -> None:
    start = {".csv": b"text,label\n", ".tsv": b"text\tlabel\n"}
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(start.get(path.suffix, b"") + content)
        result = outcome(path)
        if isinstance(result, DataError):
            assert all(problem.place.startswith(str(path)) for problem in result.problems)
        else:
            assert all(text.strip() for text in [*result.texts, *result.labels])
