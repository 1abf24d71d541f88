"""Each run and sweep has a folder of its own, also where several start in the same second."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mtl.base.files import CONF
from mtl.config import composing
from tests.support.commands import outside

CONFIGURATION = {"dir": "${mtl.new_folder:out/${name}}", "name": "12-30-00"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked() -> str:
    found: str = OmegaConf.create(CONFIGURATION).dir
    return found


def test_outside_nothing_is_made(here: Path) -> None:
    assert asked() == "out/12-30-00"
    assert not list(here.iterdir())


def test_inside_one_path_is_one_folder() -> None:
    with composing.making_folders():
        assert asked() == asked() == "out/12-30-00"
    assert Path("out/12-30-00").is_dir()


def test_what_is_there_is_not_taken() -> None:
    found = []
    for _ in range(3):
        with composing.making_folders():
            found.append(asked())
    assert found == ["out/12-30-00", "out/12-30-00-2", "out/12-30-00-3"]


def test_runs_and_sweeps_have_folders_of_their_own() -> None:
    settings = composing.compose([], composing.Source((CONF,), "train"))["hydra"]
    for kind, above in (("run", "outputs"), ("sweep", "outputs/multirun")):
        with composing.making_folders():
            first = settings[kind].dir
        with composing.making_folders():
            second = settings[kind].dir  # as Hydra's own settings are copied: with what was found before
        assert second == first
        with composing.making_folders():
            second = composing.compose([], composing.Source((CONF,), "train"))["hydra"][kind].dir
        assert first.startswith(f"{above}/20")
        assert first != second
        assert Path(second).is_dir()


PROGRAM = """
from mtl.config import composing
with composing.making_folders():
    print(composing._new_folder("out/a"))
"""


def test_processes_that_start_at_once_share_none(here: Path) -> None:
    command = [sys.executable, "-c", PROGRAM]
    started = [subprocess.Popen(command, env=outside(), stdout=subprocess.PIPE, text=True) for _ in range(6)]
    found = [each.communicate()[0].strip() for each in started]
    assert sorted(found) == ["out/a", *(f"out/a-{number}" for number in range(2, 7))]
