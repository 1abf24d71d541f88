"""Programs run as a user runs them: in this process, which is quick, or in one of their own."""

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

from mtl import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


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


def run(program: str, *arguments: str) -> Outcome:
    """Run ``python -m mtl.<program>`` in this process and in its working folder."""
    main = import_module(f"mtl.{program}").main
    out, err = io.StringIO(), io.StringIO()
    with _restored(), redirect_stdout(out), redirect_stderr(err):
        sys.argv = [program, *arguments]
        try:
            cli.run(main)
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return Outcome(code, out.getvalue(), err.getvalue())


def start(program: str, *arguments: str, cwd: Path, **environment: str) -> Outcome:
    """Run ``python -m mtl.<program>`` in a process of its own.

    Args:
        program: The module below `mtl`.
        arguments: Its arguments.
        cwd: The working folder.
        environment: Variables to set.
    """
    done = subprocess.run(
        [sys.executable, "-m", f"mtl.{program}", *arguments],
        cwd=cwd,
        env={**outside(), **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def outside() -> dict[str, str]:
    """Return the environment in which another process finds the package from any folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


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
