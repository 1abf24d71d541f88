"""The wheel: installed into a folder of its own, it does everything that a checkout does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import mtl
from tests.support.commands import ROOT
from tests.support.runs import rows, write_csv
from tests.support.wheel import build_wheel, pip

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK = ["backbone=tiny", "trainer=cpu", "trainer.max_epochs=1", "retention.path=null"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the wheel is installed, without a network and without what it depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build_wheel(folder)
    pip("install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel))
    return folder / "site"


def files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(folder).as_posix()


@pytest.mark.slow
def test_it_has_every_file_of_the_package_and_every_configuration(site: Path) -> None:
    expected = {*files(ROOT / "mtl"), *(f"conf/{name}" for name in files(ROOT / "conf"))}
    assert set(files(site / "mtl")) == expected


@pytest.mark.slow
def test_every_command_in_an_empty_folder(site: Path, tmp_path: Path) -> None:
    def command(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "120"}
        program = [str(site / "bin" / "mtl"), *arguments]
        done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout

    table = write_csv(tmp_path / "reviews.csv", rows("sentiment", 30))
    (tmp_path / "my" / "experiment").mkdir(parents=True)
    own = "# @package _global_\ndefaults:\n  - override /freeze: backbone\n"
    (tmp_path / "my" / "experiment" / "ours.yaml").write_text(own)
    data = ["data=files", f"data.tasks.mood.path={table.name}"]

    assert command("--version") == f"mtl {mtl.__version__}\n"
    assert f"{site}/mtl/conf" in command("train", "--info", "searchpath")
    command("train", *data, *QUICK)
    command("train", *data, *QUICK, "--config-dir", "my", "experiment=ours", "hydra.run.dir=outputs/ours")
    runs = sorted(str(path.parent.relative_to(tmp_path)) for path in tmp_path.glob("outputs/**/metrics.json"))
    assert len(runs) == 2
    assert runs[1] == "outputs/ours"
    assert "mood" in command("predict", f"model={runs[0]}", "a great phone")
    command("predict", f"model={runs[0]}", f"input={table.name}", "output=labelled.csv")
    assert len((tmp_path / "labelled.csv").read_text(encoding="utf-8").splitlines()) == 61
    command("evaluate", f"run={runs[0]}")
    command("compare", *runs, "output=comparison", "resamples=100")
    assert (tmp_path / "comparison" / "comparison.html").is_file()
    command("report", f"run={runs[0]}")
    assert "activations take" in command("cache")
    command("encode", f"model={runs[0]}", f"input={table.name}", "output=embeddings.npy")
    assert np.load(tmp_path / "embeddings.npy").shape == (60, 32)
    command("diagnose", f"run={runs[1]}")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["comparison", "my", "outputs"]
