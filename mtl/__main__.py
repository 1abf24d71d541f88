"""``mtl <command> …``: the commands in one program; the same as ``python -m mtl.<command> …``."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from mtl import __version__
from mtl.base import cli
from mtl.base.errors import ConfigError, Problem, did_you_mean, listed

USAGE = """
usage: mtl COMMAND [arguments …]
       mtl COMMAND --help
       mtl --version

{commands}

The same commands are modules: python -m mtl.COMMAND
"""


def commands() -> dict[str, str]:
    """Return what each command does, from the first line of its module; no module is imported."""
    files = sorted(path for path in Path(__file__).parent.glob("*.py") if not path.name.startswith("_"))
    docs = {path.stem: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" for path in files}
    lines = {name: doc.partition("\n")[0].partition("``: ")[2] for name, doc in docs.items()}
    return {name: line.rstrip(".").replace("``", "") for name, line in lines.items()}


def main(arguments: Sequence[str]) -> None:
    """Run the command that the first argument names with the other arguments, or list the commands."""
    known = commands()
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help"):
        width = max(map(len, known))
        print(USAGE.strip().format(commands="\n".join(f"  {name:{width}}  {line}" for name, line in known.items())))
    elif command in ("-V", "--version"):
        print(f"mtl {__version__}")
    elif command not in known:
        raise ConfigError(Problem("command", repr(command), listed(known), did_you_mean(command, list(known))))
    else:
        sys.argv = [f"mtl {command}", *arguments[1:]]  # Hydra reads it
        import_module(f"mtl.{command}").main(sys.argv[1:])


def start() -> NoReturn:
    """Run the program ``mtl``."""
    cli.run(main)


if __name__ == "__main__":
    start()
