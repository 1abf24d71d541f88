"""Where a comparison goes: the terminal, and its files."""

from __future__ import annotations

from pathlib import Path

from mtl.evaluation.comparison import files, markdown, terminal
from mtl.evaluation.comparison.comparing import Comparison
from mtl.evaluation.comparison.recommendation import recommend
from mtl.evaluation.html.comparison_page import comparison_page
from mtl.evaluation.tables import console
from mtl.files import write_text_atomically


def show(comparison: Comparison) -> None:
    """Print the comparison."""
    out = console()
    for block in terminal.blocks(comparison, recommend(comparison)):
        out.print(block)
        if not isinstance(block, str) and hasattr(block, "add_row"):
            out.print()


def write(folder: Path, comparison: Comparison) -> None:
    """Write ``comparison.html``, ``.md``, ``.csv`` and ``.json`` into a folder.

    Args:
        folder: Where to; made if missing.
        comparison: The comparison.
    """
    advice = recommend(comparison)
    write_text_atomically(folder / "comparison.md", markdown.render(comparison, advice))
    files.write_comparison_csv(folder / "comparison.csv", comparison)
    files.write_comparison_json(folder / "comparison.json", comparison, advice)
    write_text_atomically(folder / "comparison.html", comparison_page(comparison, advice))
