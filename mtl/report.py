"""``python -m mtl.report``: rebuild the page of a run from the files in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic.dataclasses import dataclass

from mtl.base import cli, schema
from mtl.base.errors import printable
from mtl.base.run_folder import check
from mtl.base.schema import Name

USAGE = """
usage: python -m mtl.report run=FOLDER

  run=FOLDER    the folder of a finished run; its report.html is rebuilt from metrics.json, predictions/, logs/, maps/
"""


@dataclass(config=schema.STRICT)
class Options:
    """The arguments."""

    run: Name


def main(arguments: Sequence[str]) -> None:
    """Check the arguments, then write the page."""
    options = cli.parse(Options, arguments, USAGE)

    from mtl.reporting.run_page import write_run_page

    check(Path(options.run), only_links=True)
    print(printable(f"written: {write_run_page(options.run)}"))


if __name__ == "__main__":
    cli.run(main)
