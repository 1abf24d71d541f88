"""Texts of others on the terminal and in logs: shown, and without any power over what stands around them."""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import TYPE_CHECKING

import pytest
from rich.table import Table
from rich.text import Text

from mtl.base import cli
from mtl.base.errors import DataError, Problem, printable
from mtl.base.terminal import console, shows_bars

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ATTACK = "a\x1b[2J\x1b]0;title\x07\r\x9b31m\u202eb\u2028c\udc80\x00"
ESCAPED = r"a\x1b[2J\x1b]0;title\x07\r\x9b31m\u202eb\u2028c\udc80\x00"


def test_control_characters_are_escaped() -> None:
    assert printable(ATTACK) == ESCAPED
    assert printable("größe 中文 👩‍💻\tx\ny") == "größe 中文 👩‍💻\tx\ny"
    assert all(printable(chr(code)).isprintable() for code in (*range(9), *range(11, 32), *range(127, 160)))


def test_an_error_shows_no_control_characters_and_keeps_its_problem() -> None:
    problem = Problem(f"{ATTACK}\n  forged", ATTACK, ATTACK, ATTACK)
    error = DataError(problem)
    assert str(error) == (
        "Data: 1 problem\n"
        rf"  {ESCAPED}\n  forged" + "\n"
        f"      found:    {ESCAPED}\n      expected: {ESCAPED}\n      repair:   {ESCAPED}"
    )
    assert error.problems == (problem,)


def test_a_message_has_an_end() -> None:
    long = DataError(Problem("place", "x" * 1_200_000, "y"))
    cut = f"{'x' * 1000} … (1,198,000 more characters) … {'x' * 1000}"
    assert str(long) == f"Data: 1 problem\n  place\n      found:    {cut}\n      expected: y"
    many = str(DataError(Problem(f"line {at}", "x", "y") for at in range(1500)))
    assert many.startswith("Data: 1500 problems\n  line 0\n")
    assert many.endswith("  line 99\n      found:    x\n      expected: y\n  and 1,400 more problems")


@pytest.mark.parametrize("terminal", [False, True])
def test_what_the_console_prints(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    out.isatty = lambda: terminal  # type: ignore[method-assign]
    table = Table(f"[/]{ATTACK}", title=f"[bold]{ATTACK}", caption=":smile:")
    table.add_row(Text(ATTACK))
    table.add_row("[/red]")
    printer = console(out)
    printer.width = 200
    printer.print(table)
    printer.print(f"[link]{ATTACK}", soft_wrap=True)
    shown = out.getvalue()
    assert "\x1b[2J" not in shown
    assert not set("\x07\r\x9b\u202e\u2028\udc80\x00") & set(shown)
    assert ("\x1b[" in shown) == terminal  # colours of our own
    assert shown.count(ESCAPED.partition("[")[0]) == 4
    assert all(text in shown for text in ("[/]", "[bold]", ":smile:", "[/red]", "[link]"))


def test_what_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "_logRecordFactory", logging.LogRecord)  # put back after the test
    handler = logging.FileHandler(tmp_path / "train.log", encoding="utf-8")
    log = logging.getLogger("some.library")

    def main(_: Sequence[str]) -> None:
        log.warning("task %s: %d rows", ATTACK, 3)
        log.warning(f"label {ATTACK}")

    log.addHandler(handler)
    try:
        with pytest.raises(SystemExit):
            cli.run(main)
    finally:
        log.removeHandler(handler)
        handler.close()
    written = (tmp_path / "train.log").read_text(encoding="utf-8")
    assert written == f"task {ESCAPED}: 3 rows\nlabel {ESCAPED}\n"


@pytest.mark.parametrize(
    ("terminal", "module", "expected"),
    [(True, "io", True), (False, "io", False), (False, "ipykernel.iostream", True)],
    ids=["terminal", "file", "notebook"],
)
def test_where_bars_are_shown(terminal: bool, module: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda _: terminal)
    monkeypatch.setattr(sys, "stderr", type("Stream", (io.StringIO,), {"__module__": module})())
    assert shows_bars() == expected
