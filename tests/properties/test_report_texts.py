"""No data text, whatever it holds, changes the shape of a report or a file of predictions."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from mtl.base.formatting import one_line
from mtl.evaluation.predictions import Predictions, read_predictions, write_predictions
from mtl.reporting.markdown import code, escaped, table

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])

plain = st.text(st.characters(exclude_categories=["Cs"]))
nasty = st.text(st.sampled_from("ab1 \\`*_[]()<>|~#&;:!-+=.'\"\n\r\t$@{}lt"), max_size=30)
texts = plain | nasty


def leaves(source: str) -> list[Token]:
    return [child for token in MARKDOWN.parse(source) for child in token.children or []]


@given(texts)
@example("a\\|b")
@example("__a__b_")
@example("&#42;a*")
def test_escaped_text_renders_as_itself(text: str) -> None:
    tokens = leaves(f"“{escaped(text)}”")
    assert {token.type for token in tokens} <= {"text", "text_special"}
    assert "".join(token.content for token in tokens) == f"“{one_line(text)}”"


@given(texts)
def test_escaped_text_opens_no_block(text: str) -> None:
    kinds = [token.type for token in MARKDOWN.parse(escaped(text))]
    assert kinds in (["paragraph_open", "inline", "paragraph_close"], [])


@given(st.lists(st.tuples(texts, texts), max_size=4))
def test_cells_of_a_table_stay_cells(rows: list[tuple[str, str]]) -> None:
    source = table(["a", "b"], [[escaped(first), escaped(second)] for first, second in rows])
    tokens = MARKDOWN.parse(source)
    assert tokens[0].type == "table_open"
    assert tokens[-1].type == "table_close"
    cells = ["".join(child.content for child in token.children or []) for token in tokens if token.type == "inline"]
    assert cells == ["a", "b", *(one_line(cell) for row in rows for cell in row)]


@given(texts.filter(lambda text: one_line(text)))
def test_code_is_one_code_span(text: str) -> None:
    tokens = leaves(f"({code(text)})")
    assert [token.content for token in tokens if token.type == "code_inline"] == [one_line(text)]


@given(st.lists(st.tuples(texts, texts), max_size=4), st.lists(texts, min_size=2, max_size=4, unique=True))
@settings(deadline=None)
def test_predictions_are_read_as_written(rows: list[tuple[str, str]], classes: list[str]) -> None:
    before = Predictions(
        classes=classes,
        texts=[text for text, _ in rows],
        labels=[classes[0] for _ in rows],
        predicted=[classes[1] for _ in rows],
        probabilities=np.full((len(rows), len(classes)), 1 / len(classes), np.float32),
        sources=[source for _, source in rows],
    )
    with tempfile.TemporaryDirectory() as folder:
        write_predictions(Path(folder) / "a.csv", before)
        after = read_predictions(Path(folder) / "a.csv")
    for name in ("classes", "texts", "labels", "predicted", "sources"):
        assert getattr(after, name) == getattr(before, name)
    np.testing.assert_allclose(after.probabilities, before.probabilities, atol=1e-6)
