"""Every way in which a data file can be wrong, with the whole text that the user sees."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtl.base.errors import DataError
from mtl.data.examples import read_examples, read_texts


def refusal(path: Path, **options: Any) -> str:
    """Return the text of the error that reading raises, the folder of the file left out."""
    with pytest.raises(DataError) as caught:
        read_examples(path, **options)
    return str(caught.value).replace(f"{path.parent}/", "").replace(str(path.parent), "<folder>")


def refusal_of(path: Path, content: str | bytes, **options: Any) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return refusal(path, **options)


def test_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("text,label\na,b\n")
    (tmp_path / "notes.md").write_text("x")
    assert refusal(tmp_path / "review.csv") == (
        "Data: 1 problem\n"
        "  review.csv\n"
        "      found:    no such file; <folder> has reviews.csv\n"
        "      expected: a file\n"
        "      repair:   did you mean reviews.csv?"
    )


def test_missing_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere" / "a.csv") == (
        "Data: 1 problem\n"
        "  a.csv\n"
        "      found:    no folder <folder>\n"
        "      expected: a file\n"
        "      repair:   check the path; a relative one starts at the working folder"
    )


def test_folder_names_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "b.csv").touch()
    (folder / "a.jsonl").touch()
    assert refusal(folder) == (
        "Data: 1 problem\n"
        "  corpus\n"
        "      found:    a folder\n"
        "      expected: a file\n"
        "      repair:   name one of its files: a.jsonl, b.csv"
    )


@pytest.mark.parametrize(
    ("name", "found"), [("a.xlsx", "a file with the suffix '.xlsx'"), ("data", "a file without a suffix")]
)
def test_unknown_format(tmp_path: Path, name: str, found: str) -> None:
    assert refusal_of(tmp_path / name, "x") == (
        f"Data: 1 problem\n  {name}\n      found:    {found}\n"
        "      expected: .csv, .tsv, .jsonl, .json, .parquet\n"
        "      repair:   convert the file, or rename it if it is in one of these formats"
    )


def test_plain_text_is_no_format_of_examples(tmp_path: Path) -> None:
    text = refusal_of(tmp_path / "a.txt", "good\n")
    assert "a file with the suffix '.txt'" in text


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_empty_file(tmp_path: Path, suffix: str) -> None:
    assert refusal_of(tmp_path / f"a{suffix}", b"") == (
        f"Data: 1 problem\n  a{suffix}\n      found:    an empty file (0 bytes)\n"
        "      expected: rows\n      repair:   write it again, or name another file"
    )


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "text,label\n"), ("a.csv", "\n\n"), ("a.tsv", "text\tlabel"), ("a.jsonl", "\n \n")]
)
def test_file_without_rows(tmp_path: Path, name: str, content: str) -> None:
    assert refusal_of(tmp_path / name, content) == (
        f"Data: 1 problem\n  {name}\n      found:    no rows\n"
        "      expected: at least one row\n      repair:   add rows, or name another file"
    )


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,b\n")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert refusal(path) == (
        "Data: 1 problem\n  a.csv\n      found:    a file that cannot be read (Permission denied)\n"
        "      expected: a readable file\n      repair:   check its permissions"
    )


def test_bytes_that_are_not_utf8_are_placed_and_hide_nothing(tmp_path: Path) -> None:
    content = b"text,label\nfine,pos\ncaf\xe9,pos\nna\xefve,pos\n,pos\n"
    assert refusal_of(tmp_path / "a.csv", content) == (
        "Data: 2 problems\n"
        "  a.csv:3\n"
        "      found:    byte 0xE9 at byte 23, which is not UTF-8\n"
        "      expected: UTF-8\n"
        "      repair:   convert the file, for example with `iconv -f LATIN1 -t UTF-8 a.csv > utf8_a.csv`\n"
        "  a.csv:5\n"
        "      found:    an empty text\n"
        "      expected: a text with at least one visible character\n"
        "      repair:   fill in the text, or remove the row"
    )
    assert content[23] == 0xE9


def test_utf16_is_known_by_its_mark(tmp_path: Path) -> None:
    assert refusal_of(tmp_path / "a.csv", "text,label\na,b\n".encode("utf-16")) == (
        "Data: 1 problem\n"
        "  a.csv:1\n"
        "      found:    UTF-16 text (by its byte order mark)\n"
        "      expected: UTF-8\n"
        "      repair:   convert the file, for example with `iconv -f UTF-16 -t UTF-8 a.csv > utf8_a.csv`"
    )


def test_nul_bytes(tmp_path: Path) -> None:
    assert refusal_of(tmp_path / "a.csv", b"text,label\na,b\nc\0,d\n\0\0\0,e\n") == (
        "Data: 1 problem\n"
        "  a.csv:3\n"
        "      found:    a NUL byte at byte 16\n"
        "      expected: text without NUL bytes\n"
        "      repair:   write the file again from its source: NUL bytes are the mark of a damaged file"
    )


def test_missing_column_with_a_near_name(tmp_path: Path) -> None:
    text = refusal_of(tmp_path / "a.csv", "Text,labels,id\na,b,c\n", config_key="data.tasks.sentiment")
    assert text == (
        "Data: 2 problems\n"
        "  a.csv:1\n"
        "      found:    columns 'Text', 'labels', 'id'\n"
        "      expected: a column 'text'\n"
        "      repair:   did you mean Text? set data.tasks.sentiment.text_column=Text\n"
        "  a.csv:1\n"
        "      found:    columns 'Text', 'labels', 'id'\n"
        "      expected: a column 'label'\n"
        "      repair:   did you mean labels? set data.tasks.sentiment.label_column=labels"
    )


def test_missing_column_with_no_near_name(tmp_path: Path) -> None:
    text = refusal_of(tmp_path / "a.jsonl", '{"sentence": "a", "label": 1}\n{"sentence": "b", "label": 0}\n')
    assert text == (
        "Data: 1 problem\n"
        "  a.jsonl:1\n"
        "      found:    columns 'sentence', 'label'\n"
        "      expected: a column 'text'\n"
        "      repair:   name the column that holds the texts with text_column=, or add a header line"
    )


def test_override_quotes_a_name_with_spaces(tmp_path: Path) -> None:
    text = refusal_of(tmp_path / "a.csv", "the text,label\na,b\n", text_column="the texts")
    assert "repair:   did you mean the text? set text_column='the text'" in text


def test_repeated_column(tmp_path: Path) -> None:
    assert refusal_of(tmp_path / "a.csv", "text,label,text\na,b,c\n") == (
        "Data: 1 problem\n  a.csv:1\n      found:    2 columns named 'text'\n"
        "      expected: one\n      repair:   rename or remove the others"
    )


def test_repeated_columns_that_are_not_read_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,id,text,label,,\n1,2,a,b,,\n")
    assert list(read_examples(path).texts) == ["a"]


@pytest.mark.parametrize(("name", "mark", "other"), [("a.csv", "a comma", ";"), ("a.tsv", "a tab", ",")])
def test_another_delimiter_than_the_suffix_tells(tmp_path: Path, name: str, mark: str, other: str) -> None:
    word = {";": "a semicolon", ",": "a comma"}[other]
    assert refusal_of(tmp_path / name, f"text{other}label\na{other}b\n") == (
        f"Data: 1 problem\n  {name}:1\n      found:    a header of one field that contains {word}\n"
        f"      expected: fields with {mark} between them\n"
        "      repair:   save the file with commas as .csv or with tabs as .tsv"
    )


def test_empty_cells_and_wrong_field_counts_all_at_once_by_line(tmp_path: Path) -> None:
    content = 'text,label\n"two\nlines",pos\n,pos\n  ,\ngood, bad,pos\nlonely\nfine,neg\n'
    assert refusal_of(tmp_path / "a.csv", content) == (
        "Data: 5 problems\n"
        "  a.csv:4\n"
        "      found:    an empty text\n"
        "      expected: a text with at least one visible character\n"
        "      repair:   fill in the text, or remove the row\n"
        "  a.csv:5\n"
        "      found:    a text of white space only ('  ')\n"
        "      expected: a text with at least one visible character\n"
        "      repair:   fill in the text, or remove the row\n"
        "  a.csv:5\n"
        "      found:    an empty label\n"
        "      expected: a label with at least one visible character\n"
        "      repair:   fill in the label, or remove the row\n"
        "  a.csv:6\n"
        "      found:    3 fields\n"
        "      expected: 2 fields, as in the header: text, label\n"
        "      repair:   put a field that contains a comma in double quotes\n"
        "  a.csv:7\n"
        "      found:    1 field\n"
        "      expected: 2 fields, as in the header: text, label\n"
        "      repair:   add the missing fields, empty ones too, with a comma between each two"
    )


def test_quote_that_is_never_closed(tmp_path: Path) -> None:
    assert refusal_of(tmp_path / "a.csv", 'text,label\nfine,pos\n"open,pos\nswallowed,neg\n') == (
        "Data: 1 problem\n"
        "  a.csv:3\n"
        "      found:    a quoted field that is still open at the end of the file (line 4)\n"
        "      expected: a closing quote\n"
        '      repair:   close the quote, and write a quote within quotes as ""'
    )


def test_text_after_a_closing_quote_does_not_stop_the_reading(tmp_path: Path) -> None:
    assert refusal_of(tmp_path / "a.csv", 'text,label\n"a "nice" one",pos\n"over\ntwo" lines,pos\n,neg\n') == (
        "Data: 3 problems\n"
        "  a.csv:2\n"
        "      found:    text right after a closing quote\n"
        "      expected: a delimiter or the end of the line\n"
        '      repair:   write a quote within quotes as ""\n'
        "  a.csv:3\n"
        "      found:    text right after a closing quote in line 4\n"
        "      expected: a delimiter or the end of the line\n"
        '      repair:   write a quote within quotes as ""\n'
        "  a.csv:5\n"
        "      found:    an empty text\n"
        "      expected: a text with at least one visible character\n"
        "      repair:   fill in the text, or remove the row"
    )


def test_broken_header_stops_the_reading(tmp_path: Path) -> None:
    text = refusal_of(tmp_path / "a.csv", '"text"s,label\na,b\n,c\n')
    assert text.startswith("Data: 1 problem\n  a.csv:1\n      found:    text right after a closing quote\n")


def test_at_most_twenty_problems_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    text = refusal_of(tmp_path / "a.csv", "text,label\n" + ",pos\n" * 45)
    assert text.startswith("Data: 21 problems\n  a.csv:2\n")
    assert text.count("an empty text") == 20
    assert text.endswith(
        "  a.csv\n"
        "      found:    25 more problems in this file\n"
        "      expected: none\n"
        "      repair:   fix those above and run again to see the others"
    )


def test_json_lines_that_are_no_objects(tmp_path: Path) -> None:
    lines = [
        '{"text": "a", "label": 1}',
        '{"text": "b", ',
        '["c", 1]',
        '"d"',
        '{"text": "e"}',
        '{"text": 1, "text": 2}',
    ]
    assert refusal_of(tmp_path / "a.jsonl", "\n".join(lines)) == (
        "Data: 7 problems\n"
        "  a.jsonl:2\n"
        "      found:    invalid JSON (Expecting property name enclosed in double quotes, column 14): "
        '\'{"text": "b",\'\n'
        "      expected: one JSON object per line\n"
        "  a.jsonl:3\n"
        "      found:    JSON that is no object: '[\"c\", 1]'\n"
        "      expected: one JSON object per line\n"
        "  a.jsonl:4\n"
        "      found:    JSON that is no object: '\"d\"'\n"
        "      expected: one JSON object per line\n"
        "  a.jsonl:5\n"
        "      found:    an object without 'label' (keys: 'text')\n"
        "      expected: the key 'label'\n"
        "      repair:   add the key\n"
        "  a.jsonl:6\n"
        "      found:    an object without 'label' (keys: 'text')\n"
        "      expected: the key 'label'\n"
        "      repair:   add the key\n"
        "  a.jsonl:6\n"
        "      found:    the key 'text' more than once\n"
        "      expected: once\n"
        "      repair:   remove the others\n"
        "  a.jsonl:6\n"
        "      found:    a text that is a number (2)\n"
        "      expected: a text in quotes, not empty\n"
        "      repair:   quote it, or remove the row"
    )


@pytest.mark.parametrize(
    ("value", "found"),
    [("null", "null"), ("3", "a number (3)"), ("true", "a boolean (True)"), ('["a", "b"]', "a list (['a', 'b'])")],
)
def test_text_that_is_no_string(tmp_path: Path, value: str, found: str) -> None:
    assert refusal_of(tmp_path / "a.jsonl", f'{{"text": {value}, "label": 1}}') == (
        f"Data: 1 problem\n  a.jsonl:1\n      found:    a text that is {found}\n"
        "      expected: a text in quotes, not empty\n      repair:   quote it, or remove the row"
    )


@pytest.mark.parametrize(
    ("value", "found"),
    [("null", "null"), ("0.5", "a number (0.5)"), ("NaN", "a number (nan)"), ('{"a": 1}', "an object ({'a': 1})")],
)
def test_label_that_is_no_label(tmp_path: Path, value: str, found: str) -> None:
    assert refusal_of(tmp_path / "a.jsonl", f'{{"text": "a", "label": {value}}}') == (
        f"Data: 1 problem\n  a.jsonl:1\n      found:    a label that is {found}\n"
        "      expected: one label: a text, an integer, true or false\n"
        "      repair:   write it as text, or remove the row"
    )


def test_a_label_as_long_as_a_text(tmp_path: Path) -> None:
    content = f'{{"text": "a", "label": "{"b" * 1001}"}}\n{{"text": "a", "label": "{"c" * 1000}"}}\n'
    message = refusal_of(tmp_path / "a.jsonl", content)
    assert message.startswith("Data: 1 problem\n  a.jsonl:1\n      found:    a label of 1,001 characters: 'bbb")
    assert message.endswith("expected: at most 1,000 characters\n      repair:   name the column that holds the labels")


def test_escapes_that_are_no_characters(tmp_path: Path) -> None:
    content = '{"text": "half \\ud83d", "label": "a"}\n{"text": "b", "label": "nul\\u0000"}\n'
    assert refusal_of(tmp_path / "a.jsonl", content) == (
        "Data: 2 problems\n"
        "  a.jsonl:1\n"
        "      found:    a text with half a surrogate pair (\\ud83d)\n"
        "      expected: whole characters\n"
        "      repair:   write the character as UTF-8, or both halves of its escape\n"
        "  a.jsonl:2\n"
        "      found:    a label with a NUL character: 'nul\\x00'\n"
        "      expected: a label without NUL characters\n"
        "      repair:   remove it"
    )


@pytest.mark.parametrize("content", ["9" * 5000, "[" * 100_000], ids=["digits", "brackets"])
def test_json_beyond_the_limits_of_the_parser(tmp_path: Path, content: str) -> None:
    text = refusal_of(tmp_path / "a.jsonl", '{"text": "a", "label": 1}\n' + content)
    assert text.startswith("Data: 1 problem\n  a.jsonl:2\n      found:    invalid JSON (")


@pytest.mark.parametrize(
    ("indent", "shown", "command"),
    [(None, '\'[{"text": "a", "label": 1}, {"text": "b", "label": 0}]\'', "jq -c '.[]'"), (1, "'['", "jq -c '.[]'")],
)
def test_json_document_instead_of_lines(tmp_path: Path, indent: int | None, shown: str, command: str) -> None:
    content = json.dumps([{"text": "a", "label": 1}, {"text": "b", "label": 0}], indent=indent)
    assert refusal_of(tmp_path / "a.json", content) == (
        "Data: 1 problem\n"
        "  a.json:1\n"
        f"      found:    one JSON document over the whole file: {shown}\n"
        "      expected: one JSON object per line\n"
        f"      repair:   convert the file, for example with `{command} a.json > lines_a.jsonl`"
    )


def test_damaged_parquet(tmp_path: Path) -> None:
    text = refusal_of(tmp_path / "a.parquet", b"PAR1 and nothing more")
    assert text.startswith("Data: 1 problem\n  a.parquet\n      found:    a damaged Parquet file (")
    assert text.endswith("      expected: a whole Parquet file\n      repair:   write or download it again")


def test_parquet_with_a_damaged_page(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"some text {i}" for i in range(500)], "label": ["a", "b"] * 250})
    pq.write_table(table, path, compression="gzip")
    content = bytearray(path.read_bytes())
    content[100:400] = bytes(300)
    text = refusal_of(path, bytes(content))
    assert text.startswith("Data: 1 problem\n  a.parquet\n      found:    a damaged Parquet file (")


def test_parquet_of_wrong_types(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [1, 2], "label": [0.0, 1.0]}), path)
    assert refusal(path, config_key="data.tasks.topic") == (
        "Data: 2 problems\n"
        "  a.parquet\n"
        "      found:    column 'text' of type int64\n"
        "      expected: strings\n"
        "      repair:   cast it, or set data.tasks.topic.text_column=\n"
        "  a.parquet\n"
        "      found:    column 'label' of type double\n"
        "      expected: strings, integers or booleans\n"
        "      repair:   cast it, or set data.tasks.topic.label_column="
    )


def test_parquet_problems_name_the_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    raw = pa.array([b"fine", b"caf\xe9", b"fine", b"fine"], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    pq.write_table(pa.table({"text": broken, "label": ["a", "b", None, " "]}), path)
    assert refusal(path) == (
        "Data: 3 problems\n"
        "  a.parquet:2\n"
        "      found:    a text with bytes that are not UTF-8\n"
        "      expected: UTF-8\n"
        "      repair:   write the file again as UTF-8\n"
        "  a.parquet:3\n"
        "      found:    a label that is null\n"
        "      expected: one label: a text, an integer, true or false\n"
        "      repair:   write it as text, or remove the row\n"
        "  a.parquet:4\n"
        "      found:    a label of white space only (' ')\n"
        "      expected: a label with at least one visible character\n"
        "      repair:   fill in the label, or remove the row"
    )


def test_parquet_without_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"texts": ["a"], "label": ["b"]}), path)
    assert refusal(path) == (
        "Data: 1 problem\n  a.parquet\n      found:    columns 'texts', 'label'\n"
        "      expected: a column 'text'\n      repair:   did you mean texts? set text_column=texts"
    )


def test_parquet_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}), path)
    assert "found:    no rows" in refusal(path)


def test_the_limit_of_the_csv_module_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"text,label\n{'long ' * 50_000},a\n")
    before = csv.field_size_limit()
    assert len(read_examples(path).texts[0]) == 250_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_file_without_ends_of_lines_is_not_read_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(2**28)  # zeros that take no space
    assert refusal(path).splitlines()[:4] == [
        "Data: 1 problem",
        f"  {name}:1",
        "      found:    a line of more than 67,108,864 bytes",
        "      expected: lines of text",
    ]


def test_a_quote_that_is_not_closed_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"a' + ("b" * 2**20 + "\n") * 70)
    message = refusal(path)
    assert "a.csv:2\n      found:    a malformed row (field larger than field limit (67108864))" in message


def test_many_repeated_keys(tmp_path: Path) -> None:
    keys = "".join(f'"k{at}": 1, "k{at}": 2, ' for at in range(20_000))
    assert "found:    the key 'text' more than once" in refusal_of(
        tmp_path / "a.jsonl", f'{{{keys} "text": "a", "text": "b", "label": "c"}}\n'
    )


def test_predictions_name_only_the_text_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("sentence,id\na,1\n")
    with pytest.raises(DataError) as caught:
        read_texts(path)
    assert str(caught.value) == (
        f"Data: 1 problem\n  {path}:1\n      found:    columns 'sentence', 'id'\n      expected: a column 'text'\n"
        "      repair:   name the column that holds the texts with text_column=, or add a header line"
    )


def test_a_parquet_column_whose_name_is_no_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"], "label": ["b"]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"\x05label", b"\x05\xecabel"))
    with pytest.raises(DataError) as error:
        read_examples(path)
    (problem,) = error.value.problems
    assert problem.place == str(path)
    assert problem.found.startswith("a damaged Parquet file ('utf-8' codec can't decode byte 0xec")
    assert (problem.expected, problem.repair) == ("a whole Parquet file", "write or download it again")
