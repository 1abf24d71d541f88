"""Command lines as a user types them: in a process of their own, or in this one, which is quick."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from mtl.base import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


def call(module: str, *arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m module`` in ``folder`` and return its exit code and all that it prints."""
    command = [sys.executable, "-m", module, *arguments]
    environment = {**outside(), **variables}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def outside() -> dict[str, str]:
    """Return the environment in which a process finds the package from any folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
        code: Its exit code.
        out: What it wrote to stdout.
        err: What it wrote to stderr.
    """

    code: int
    out: str
    err: str


def run(module: str, *arguments: str) -> Outcome:
    """Do as ``python -m module`` does, in this process and in its working folder."""
    main = import_module(module).main
    out, err = io.StringIO(), io.StringIO()
    with _restored(), redirect_stdout(out), redirect_stderr(err):
        sys.argv = [module, *arguments]
        try:
            cli.run(main)
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return Outcome(code, out.getvalue(), err.getvalue())


@contextmanager
def _restored() -> Iterator[None]:
    """Put back what Hydra and Lightning set for the whole process: arguments, variables, log handlers."""
    root = logging.getLogger()
    argv, environment, handlers, level = sys.argv, dict(os.environ), root.handlers[:], root.level
    try:
        yield
    finally:
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environment)
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
