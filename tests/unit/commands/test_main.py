"""The program ``mtl``: its commands by name, its version, and what it imports before one is chosen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mtl
from mtl.__main__ import commands
from tests.support.commands import outside, run


def test_help_has_a_line_for_each_command() -> None:
    shown = run("mtl.__main__", "--help")
    assert shown == run("mtl.__main__") == run("mtl.__main__", "-h")
    lines = dict(line.split(maxsplit=1) for line in shown.out.split("\n\n")[1].splitlines())
    modules = {path.stem for path in Path(mtl.__file__).parent.glob("*.py")} - {"__init__", "__main__"}
    assert lines == commands()
    assert lines.keys() == modules
    assert all(len(line) > 20 for line in lines.values())
    assert lines["train"] == "train all tasks on a shared encoder, evaluate, and save the model"


def test_version() -> None:
    assert run("mtl.__main__", "--version").out == f"mtl {mtl.__version__}\n"


def test_an_unknown_command() -> None:
    outcome = run("mtl.__main__", "predct", "model=x")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        "Configuration: 1 problem\n  command\n      found:    'predct'\n"
        f"      expected: {', '.join(commands())}\n      repair:   did you mean predict?\n"
    )


def test_a_command_gets_the_other_arguments() -> None:
    assert run("mtl.__main__", "predict", "--help").out == run("mtl.predict", "--help").out
    wrong = "trainer.max_epochs=x", "backbone=tiny"
    assert run("mtl.__main__", "train", *wrong) == run("mtl.train", *wrong)
    assert run("mtl.__main__", "train", "--cfg", "job", "seed=7").out == run("mtl.train", "--cfg", "job", "seed=7").out


def test_it_starts_without_large_packages(tmp_path: Path) -> None:
    code = (
        "import sys; from mtl import __main__ as program; program.main(['--help'])\n"
        "print({'torch', 'hydra', 'transformers', 'lightning'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=outside(), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()"
