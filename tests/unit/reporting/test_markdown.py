"""Pieces of Markdown: the source reads well, and data in it stays data."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from mtl.reporting.markdown import code, escaped, folded, link, table


def html(source: str) -> str:
    return str(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(source))


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("very_good & more", "very_good & more"),
        ("_not emphasis_", "\\_not emphasis\\_"),
        ("*a* `b` [c](d) ~~e~~", "\\*a\\* \\`b\\` \\[c\\](d) \\~\\~e\\~\\~"),
        ("a | b\nc", "a \\| b c"),
        ("<script>", "&lt;script&gt;"),
        ("&copy; &#169;", "&amp;copy; &amp;\\#169;"),
        ("\\ $x$", "\\\\ \\$x\\$"),
        ("# no heading", "\\# no heading"),
        ("- no item", "\\- no item"),
        ("12. no item", "12\\. no item"),
        ("3 items", "3 items"),
        ("", ""),
    ],
)
def test_escaped(text: str, source: str) -> None:
    assert escaped(text) == source


@pytest.mark.parametrize(
    ("text", "source"), [("a.csv:17", "`a.csv:17`"), ("a`b", "``a`b``"), ("`a``", "``` `a`` ```"), ("a\nb", "`a b`")]
)
def test_code(text: str, source: str) -> None:
    assert code(text) == source


def test_link() -> None:
    assert link("a b/c>.csv") == "[`a b/c>.csv`](<a%20b/c%3E.csv>)"
    assert 'href="a%20b/c%3E.csv"' in html(link("a b/c>.csv"))


def test_table_is_aligned_in_the_source_too() -> None:
    assert table(["class", "F1"], [["delivery", "0.5"], ["x", "0.25"]]) == (
        "| class    |   F1 |\n| -------- | ---: |\n| delivery |  0.5 |\n| x        | 0.25 |"
    )


def test_table_without_rows() -> None:
    assert table(["a", "b"], []) == "| a   |   b |\n| --- | --: |"


def test_folded_blocks_are_rendered_as_markdown() -> None:
    rendered = html(folded("On <val> & *test*", "- item", "**bold**"))
    assert "<summary>On &lt;val&gt; & *test*</summary>" in rendered
    assert "<li>item</li>" in rendered
    assert "<strong>bold</strong>" in rendered
    assert rendered.rstrip().endswith("</details>")
