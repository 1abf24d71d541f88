"""The folder of a run: what is finished, in use, left over, and which run is the one to resume."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtl import train
from mtl.errors import ConfigError, DiskError
from mtl.run_folder import begin, choices_of, full_disk_explained, in_use, remove_leftovers, run_to_resume


def run(folder: Path, started: int, *, finished: bool = False) -> Path:
    begin(folder, {"freeze": "none"})
    (folder / "config.yaml").write_text("seed: 1\n", encoding="utf-8")
    os.utime(folder / "run.json", ns=(started, started))
    if finished:
        (folder / "metrics.json").write_text("{}", encoding="utf-8")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_auto_is_the_last_started_run_that_is_neither_finished_nor_in_use(here: Path) -> None:
    run(here / "outputs" / "day" / "early", 1)
    expected = run(here / "outputs" / "multirun" / "0", 2)
    run(here / "outputs" / "day" / "done", 3, finished=True)
    busy = run(here / "outputs" / "day" / "busy", 4)
    code = "import sys, pathlib; from mtl.run_folder import in_use\nwith in_use(pathlib.Path(sys.argv[1])):\n"
    code += "    print('ready', flush=True); sys.stdin.read()"
    pipe, root = subprocess.PIPE, Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", code, str(busy)], cwd=root, stdin=pipe, stdout=pipe, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        assert run_to_resume("auto") == expected
        with pytest.raises(ConfigError) as caught, in_use(busy):
            pass
        other.kill()
    assert str(caught.value) == (
        f"Configuration: 1 problem\n  run folder\n      found:    {busy}, in use by another process\n"
        "      expected: a folder in which no other process trains"
    )
    assert run_to_resume("auto") == busy


@pytest.mark.parametrize(
    ("arguments", "found", "expected"),
    [
        (["resume=auto"], "auto, and none of the 1 runs below {here}/outputs is unfinished", "the folder of a run"),
        (["resume=gone"], "{here}/gone: no such folder", "the folder of a run, or auto"),
        (["resume=outputs"], "{here}/outputs: no config.yaml in it", "the folder of a run, or auto"),
    ],
)
def test_no_run_to_resume(arguments: list[str], found: str, expected: str, here: Path) -> None:
    run(here / "outputs" / "done", 1, finished=True)
    with pytest.raises(ConfigError) as caught:
        train.main(arguments)
    assert str(caught.value) == (
        f"Configuration: 1 problem\n  resume\n      found:    {found.format(here=here)}\n"
        f"      expected: {expected}\n      repair:   resume=outputs/<date>/<time>"
    )


def test_nothing_goes_together_with_resume() -> None:
    with pytest.raises(ConfigError) as caught:
        train.main(["resume=auto", "trainer.max_epochs=9", "-m"])
    assert str(caught.value) == (
        "Configuration: 1 problem\n  resume\n      found:    resume=auto, trainer.max_epochs=9, -m\n"
        "      expected: resume=<run folder> or resume=auto alone: a run goes on with its own config.yaml\n"
        "      repair:   start a new run to change something"
    )


def test_a_finished_run_is_left_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(here / "run", 1, finished=True)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    (folder / ".running").touch()  # of a process that was killed behind its last file
    train.main(["resume=run"])
    assert capsys.readouterr().out == f"the run in {folder} is finished; there is nothing to resume\n"
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_what_an_earlier_run_left_is_not_taken_for_that_of_a_new_one(tmp_path: Path) -> None:
    run(tmp_path, 1, finished=True)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    begin(tmp_path, {"freeze": "all"})
    assert choices_of(tmp_path) == {"freeze": "all"}
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"config.yaml", "run.json"}


@pytest.mark.parametrize("kept", [True, False])
def test_the_results_of_an_earlier_run_are_removed(
    kept: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, 1, finished=True)
    for name in ("model/weights", "predictions/mood_test.csv", "report.html", "own/notes"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    begin(tmp_path, {}, keep=tmp_path / "model" if kept else None)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"config.yaml", "run.json", "notes", *(["weights"] if kept else [])}
    assert f"the run that was in {tmp_path} is replaced by this one" in caplog.text


def test_what_is_no_runs_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "own").touch()
    begin(tmp_path, {})
    assert (tmp_path / "model" / "own").is_file()
    assert not caplog.text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"choices": 3}'])
def test_choices_that_cannot_be_read_are_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content, encoding="utf-8")
    assert choices_of(tmp_path) == choices_of(tmp_path / "gone") == {}


def test_leftovers(tmp_path: Path) -> None:
    (tmp_path / ".partial-0123" / "deep").mkdir(parents=True)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / ".partial-0123.csv").touch()
    (tmp_path / "logs" / "metrics.csv").touch()
    (tmp_path / ".old-0123").mkdir()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["logs", "metrics.csv"]


def test_a_full_disk_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DiskError) as caught, full_disk_explained(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device", "/some/file")
    assert str(caught.value) == (
        f"Disk: 1 problem\n  {tmp_path}\n      found:    no space left for /some/file\n"
        "      expected: space for the model, and three times that for the checkpoints of a training\n"
        f"      repair:   free some, then: python -m mtl.train resume={tmp_path}"
    )
    with pytest.raises(PermissionError), full_disk_explained(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_a_full_disk_in_the_words_of_safetensors_is_explained(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    with pytest.raises(DiskError), full_disk_explained(tmp_path):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(SafetensorError), full_disk_explained(tmp_path):
        raise SafetensorError("Error while deserializing header: invalid header")
