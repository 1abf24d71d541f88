"""What the command lines share: ``key=value`` arguments, and how a program ends."""

from __future__ import annotations

import errno
import gc
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Literal

import pytest
from pydantic.dataclasses import dataclass

from mtl.base import cli, schema
from mtl.base.errors import ConfigError, DataError, ModelError, MtlError, Problem
from mtl.base.schema import Name
from tests.support.commands import outside

SPACE, SHORTER = "free some space; what is there already is whole", "give a shorter name"
USAGE = "usage: prog model=FOLDER\n"


@dataclass(config=schema.STRICT)
class Options:
    """Options of every kind."""

    model: Name
    column: Name | None = "text"
    size: int = 8
    share: float = 0.5
    quick: bool = False
    device: Literal["cpu", "cuda"] | None = None


@dataclass(config=schema.STRICT)
class Sentences:
    """Options with free arguments."""

    model: Name
    sentences: list[str] = field(default_factory=list)


def parse(*arguments: str) -> Options:
    return cli.parse(Options, arguments, USAGE)


def free(*arguments: str) -> Sentences:
    return cli.parse(Sentences, arguments, USAGE, rest="sentences")


def problems(*arguments: str, sentences: bool = False) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        free(*arguments) if sentences else parse(*arguments)
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("argument", "name", "value"),
    [
        ("column=012", "column", "012"),
        ("column=1e3", "column", "1e3"),
        ("column=12:30", "column", "12:30"),
        ("column=true", "column", "true"),
        ("column=a=b", "column", "a=b"),
        ("column=a b", "column", "a b"),
        ("column='a'", "column", "'a'"),
        ("column=two\nlines", "column", "two\nlines"),
        ("column=~", "column", "~"),
        ("column=null", "column", None),
        ("size=-3", "size", -3),
        ("share=1e-3", "share", 0.001),
        ("share=2", "share", 2.0),
        ("quick=true", "quick", True),
        ("device=cuda", "device", "cuda"),
        ("device=null", "device", None),
    ],
)
def test_values_are_read_as_their_option_needs_them(argument: str, name: str, value: object) -> None:
    assert getattr(parse("model=m", argument), name) == value


KEYS = "model, column, size, share, quick, device"
FLAGS = "model=…, column=…, size=…, share=…, quick=…, device=…"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), Problem("model", "nothing", "a value", "give model=…")),
        (("model=",), Problem("model", "''", "a text that is not empty")),
        (("model=m", "size=a"), Problem("size", "'a'", "a whole number")),
        (("model=m", "size=08"), Problem("size", "'08'", "a whole number")),
        (("model=m", "size=1e5"), Problem("size", "100000.0", "a whole number")),
        (("model=m", "size="), Problem("size", "''", "a whole number")),
        (("model=m", "share=NaN"), Problem("share", "nan", "a finite number")),
        (("model=m", "quick=yes"), Problem("quick", "'yes'", "true or false")),
        (("model=m", "device=cudo"), Problem("device", "'cudo'", "cpu, cuda", "did you mean cuda?")),
        (("model=m", "sise=3"), Problem("sise", "an unknown key", KEYS, "did you mean size?")),
        (("model=m", "a.b=3"), Problem("a.b", "an unknown key", KEYS)),
        (("model=m", "--size=3"), Problem("--size=3", "an unknown flag", FLAGS)),
        (("model=m", "-x"), Problem("-x", "an unknown flag", FLAGS)),
        (("model=m", "more"), Problem("more", "no key=value", FLAGS)),
        (("model=m", "=3"), Problem("=3", "no key=value", FLAGS)),
        (("model=m", "--", "size=3"), Problem("size=3", "no key=value", FLAGS)),
        (("model=m", "size=1", "size=2"), Problem("size", "size=2, a second value", "one value")),
    ],
)
def test_a_wrong_argument_is_told_whole(arguments: tuple[str, ...], problem: Problem) -> None:
    assert problems(*arguments) == [problem]


def test_all_problems_come_together() -> None:
    found = problems("modle=m", "--fast", "size=a", "quick=1", "rest")
    assert [problem.place for problem in found] == ["modle", "--fast", "rest", "model", "size", "quick"]


def test_free_arguments_are_sentences() -> None:
    options = free("a sentence", "model=m", "x = y, or not", "- a dash", "--", "--help", "model=n")
    assert options == Sentences(model="m", sentences=["a sentence", "x = y, or not", "- a dash", "--help", "model=n"])


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("rating=5", Problem("rating", "an unknown key", "model", "behind -- everything counts as sentences")),
        ("modle=5", Problem("modle", "an unknown key", "model", "did you mean model?")),
        ("sentences=a", Problem("sentences", "an unknown key", "model", "behind -- everything counts as sentences")),
        ("-5", Problem("-5", "an unknown flag", "model=…", "behind -- everything counts as sentences")),
    ],
)
def test_a_sentence_that_looks_like_an_option_is_refused(argument: str, problem: Problem) -> None:
    assert problems("model=m", argument, sentences=True) == [problem]


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_prints_the_usage_and_exits_with_0(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("model=m", "nonsense", flag)
    assert caught.value.code == 0
    assert capsys.readouterr() == (USAGE, "")


def end(main: object, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the exit code of a program with the arguments ``a`` and ``b``."""
    monkeypatch.setattr(sys, "argv", ["prog", "a", "b"])
    with pytest.raises(SystemExit) as caught:
        cli.run(main)  # type: ignore[arg-type]
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_a_program_that_ends_well_exits_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Sequence[str]] = []
    assert end(seen.append, monkeypatch) == 0
    assert seen == [["a", "b"]]


@pytest.mark.parametrize("kind", [ConfigError, DataError, ModelError])
def test_what_a_user_can_mend_goes_to_stderr_and_exits_with_2(
    kind: type[ConfigError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(_: Sequence[str]) -> None:
        raise kind([Problem("a.csv:3", "nothing", "a label", "give one"), Problem("b", "1", "2")])

    assert end(main, monkeypatch) == 2
    assert capsys.readouterr() == (
        "",
        f"{kind.subject}: 2 problems\n"
        "  a.csv:3\n"
        "      found:    nothing\n"
        "      expected: a label\n"
        "      repair:   give one\n"
        "  b\n"
        "      found:    1\n"
        "      expected: 2\n",
    )


def test_too_little_memory_is_no_bug(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def main(_: Sequence[str]) -> None:
        raise MemoryError("realloc of size 6000000000 failed")

    assert end(main, monkeypatch) == 2
    problem = Problem(
        "memory",
        "realloc of size 6000000000 failed",
        "data and batches that fit into memory",
        "split the file, or shorten its texts",
    )
    assert capsys.readouterr().err == f"{MtlError(problem)}\n"


def test_arguments_that_are_no_text_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["prog", "model=é", "model=a\udcff"])
    with pytest.raises(SystemExit) as end:
        cli.run(lambda _: None)
    assert end.value.code == 2
    problem = Problem("arguments", r"'model=a\udcff'", "text in UTF-8", "rename the file or folder")
    assert capsys.readouterr().err == f"{ConfigError(problem)}\n"


def test_an_interrupt_exits_as_shells_have_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(_: Sequence[str]) -> None:
        raise KeyboardInterrupt

    assert end(main, monkeypatch) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def main(_: Sequence[str]) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sys, "argv", ["prog"])
    with pytest.raises(ZeroDivisionError):
        cli.run(main)


@pytest.mark.parametrize(
    ("error", "place", "found", "repair"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "/a/b", "No space left on device", SPACE),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 999), "a" * 200 + "…", "File name too long", SHORTER),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a", "Permission denied", "check its permissions"),
        (OSError("odd\nly"), "the system", "odd ly", ""),
        (OSError(), "the system", "OSError", ""),
    ],
)
def test_what_the_system_refuses_is_said_without_a_traceback(
    error: OSError,
    place: str,
    found: str,
    repair: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def main(_: Sequence[str]) -> None:
        raise error

    assert end(main, monkeypatch) == 2
    problem = Problem(place, found, "a file that can be read or written here", repair)
    assert capsys.readouterr() == ("", f"{MtlError(problem)}\n")


def test_output_that_is_cut_off_is_no_error(tmp_path: Path) -> None:
    code = "import sys; from mtl.base import cli; sys.argv = ['p']; cli.run(lambda _: print('x' * 1_000_000))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=outside(), cwd=tmp_path
    ) as done:
        assert done.stdout is not None
        assert done.stderr is not None
        done.stdout.read(1)
        done.stdout.close()
        assert done.stderr.read() == b""
    assert done.returncode == 141


def test_any_character_fits_on_any_terminal(tmp_path: Path) -> None:
    code = r"import sys; from mtl.base import cli; sys.argv = ['p']; cli.run(lambda _: print('é – \udcff'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=False,
        env={**outside(), "PYTHONIOENCODING": "ascii"},
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, rb"\xe9 \u2013 \udcff" + b"\n", b"")


def test_the_search_for_garbage_rests_while_large_packages_are_imported() -> None:
    assert gc.get_freeze_count() == 0
    with cli.large_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 1000


def test_nothing_is_searched_at_the_end_and_nothing_is_lost() -> None:
    program = (
        "import gc, sys, atexit; from mtl.base import cli\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 1000))\n"
        "cli.run(lambda arguments: print('written', flush=False))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "written\nTrue\n"


def test_an_interrupt_that_a_library_swallows_ends_the_imports() -> None:
    reached = []

    def imports() -> None:
        with suppress(BaseException):
            signal.raise_signal(signal.SIGINT)
            reached.append("after the signal")
        reached.append("the import went on")

    with pytest.raises(KeyboardInterrupt), cli.large_imports():
        imports()
    assert reached == ["the import went on"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_interrupt_stays_ignored() -> None:
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with cli.large_imports():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, usual)
