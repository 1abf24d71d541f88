"""``python -m mtl.compare`` as it is typed: where its files go, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.commands import run
from tests.support.comparisons import answers, labels, predictions, write_run

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

TRUE = labels(30)
FILES = {"comparison.md", "comparison.csv", "comparison.json"}


def sweep(folder: Path) -> Path:
    for at, name in enumerate(("freeze=none", "freeze=all")):
        tasks = {"topic": predictions(TRUE, answers(TRUE, range(10 * at)))}
        write_run(folder / str(at), tasks, name=name)
    (folder / "multirun.yaml").touch()
    return folder


def test_the_files_of_a_multirun_lie_beside_its_jobs(tmp_path: Path) -> None:
    outcome = run("mtl.compare", str(sweep(tmp_path / "sweep")))
    assert outcome.code == 0
    assert "Best quality: freeze=none" in outcome.out
    assert {path.name for path in (tmp_path / "sweep").iterdir() if path.is_file()} >= FILES


def test_the_files_of_single_runs_lie_under_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run("mtl.compare", "0", "1").code == 0
    (folder,) = (tmp_path / "outputs" / "comparisons").glob("*/*")
    assert {path.name for path in folder.iterdir()} >= FILES


def test_output_says_where(tmp_path: Path) -> None:
    assert run("mtl.compare", str(sweep(tmp_path / "sweep")), f"output={tmp_path / 'out'}", "resamples=200").code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} >= FILES


def test_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    outcome = run("mtl.compare", str(tmp_path))
    assert outcome.code == 2
    assert outcome.err == (
        "Data: 1 problem\n"
        f"  {tmp_path}\n"
        "      found:    no run\n"
        "      expected: runs: folders with metrics.json and config.yaml\n"
        "      repair:   train first, then compare\n"
    )


def test_bad_arguments_are_named_together(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = run("mtl.compare", f"output={tmp_path / 'file' / 'out'}")
    assert outcome.code == 2
    assert outcome.err == (
        "Configuration: 2 problems\n"
        "  folders\n"
        "      found:    nothing\n"
        "      expected: runs, multiruns, or folders above them\n"
        "      repair:   python -m mtl.compare outputs/multirun/<date>/<time>\n"
        "  output\n"
        f"      found:    {tmp_path / 'file' / 'out'}, and {tmp_path / 'file'} is a file\n"
        "      expected: a folder that can be made\n"
    )
