"""``python -m mtl.compare``: all scenarios in one table, which differences are significant, and what to choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from mtl.base import cli, schema
from mtl.base.errors import ConfigError, Problem, printable
from mtl.base.files import obstacle
from mtl.base.schema import Name

USAGE = """
usage: python -m mtl.compare FOLDER …

  FOLDER …            runs, multiruns, or folders above them; runs that differ in the seed only are replicates
  output=FOLDER       where comparison.html, .md, .csv and .json go (default: the multirun folder if one is given,
                      else outputs/comparisons/<date>/<time>)
  resamples=2000      of the paired bootstrap over the test rows
  --                  all arguments after it are folders
"""


@dataclass(config=schema.STRICT)
class Options:
    """The arguments."""

    output: Name | None = None
    resamples: Annotated[int, Field(ge=100, le=1_000_000)] = 2000
    folders: list[str] = field(default_factory=list)


def main(arguments: Sequence[str]) -> None:
    """Check the arguments, then compare, print and write."""
    options = cli.parse(Options, arguments, USAGE, rest="folders")
    folder = _check(options)

    from mtl.comparison.comparing import compare
    from mtl.comparison.outputs import show, write

    comparison = compare(options.folders, options.resamples)
    write(folder, comparison)  # first, in case a closed pipe ends the output
    show(comparison)
    print(printable(f"written to {folder}: comparison.html, .md, .csv, .json"))


def _check(options: Options) -> Path:
    """Return the folder to write to.

    Raises:
        ConfigError: There are no folders to compare, or the folder to write to cannot be made.
    """
    problems = []
    if not options.folders:
        expected = "runs, multiruns, or folders above them"
        problems.append(Problem("folders", "nothing", expected, "python -m mtl.compare outputs/multirun/<date>/<time>"))
    folder = Path(options.output) if options.output is not None else _beside(options.folders)
    if reason := obstacle(folder):
        problems.append(Problem("output", f"{folder}, and {reason}", "a folder that can be made"))
    if problems:
        raise ConfigError(problems)
    return folder


def _beside(folders: Sequence[str]) -> Path:
    if len(folders) == 1 and (Path(folders[0]) / "multirun.yaml").is_file():
        return Path(folders[0])
    return Path("outputs") / "comparisons" / datetime.now().strftime("%Y-%m-%d/%H-%M-%S")


if __name__ == "__main__":
    cli.run(main)
