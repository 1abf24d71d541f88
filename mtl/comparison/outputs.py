"""Where a comparison goes: the terminal, and its files."""

from __future__ import annotations

from pathlib import Path

from mtl.base.files import write_text_atomically
from mtl.comparison import files, markdown, terminal
from mtl.comparison.comparing import Comparison
from mtl.comparison.page import comparison_page
from mtl.comparison.recommendation import recommend
from mtl.reporting.tables import console


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
