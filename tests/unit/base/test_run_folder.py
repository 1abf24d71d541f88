"""The folder of a run: what is finished, in use, left over, and which run is the one to resume."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mtl.train as command
from mtl.base import run_folder
from mtl.base.errors import ConfigError, DiskError
from mtl.base.run_folder import (
    begin,
    choices_of,
    full_disk_explained,
    in_use,
    problem_with,
    remove_leftovers,
    run_to_resume,
)
from tests.support import commands

if TYPE_CHECKING:
    from collections.abc import Callable


def run(folder: Path, started: int, *, finished: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    begin(folder, {"freeze": "none"}, {"seed": 1})
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
    code = "import sys, pathlib; from mtl.base.run_folder import in_use\nwith in_use(pathlib.Path(sys.argv[1])):\n"
    code += "    print('ready', flush=True); sys.stdin.read()"
    pipe, root = subprocess.PIPE, Path(__file__).parents[3]
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
        command.main(arguments)
    assert str(caught.value) == (
        f"Configuration: 1 problem\n  resume\n      found:    {found.format(here=here)}\n"
        f"      expected: {expected}\n      repair:   resume=outputs/<date>/<time>"
    )


def test_nothing_goes_together_with_resume() -> None:
    with pytest.raises(ConfigError) as caught:
        command.main(["resume=auto", "optimizer.warmup=9", "-m"])
    assert str(caught.value) == (
        "Configuration: 1 problem\n  resume\n      found:    resume=auto, optimizer.warmup=9, -m\n"
        "      expected: resume=<run folder> or resume=auto, and at most trainer.max_epochs=… and "
        "trainer.devices=…: a run keeps its config.yaml\n"
        "      repair:   start a new run to change something"
    )


def test_a_finished_run_is_left_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(here / "run", 1, finished=True)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    (folder / ".running").touch()  # of a process that was killed behind its last file
    command.main(["resume=run"])
    told = f"the run in {folder} is finished; more epochs: resume={folder} trainer.max_epochs=…\n"
    assert capsys.readouterr().out == told
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_what_an_earlier_run_left_is_not_taken_for_that_of_a_new_one(tmp_path: Path) -> None:
    run(tmp_path, 1, finished=True)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    begin(tmp_path, {"freeze": "all"}, {})
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
    begin(tmp_path, {}, {}, keep=tmp_path / "model" if kept else None)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"config.yaml", "run.json", "notes", *(["weights"] if kept else [])}
    assert f"the run that was in {tmp_path} is replaced by this one" in caplog.text


FOREIGN = ("metrics.json", "checkpoints/last.ckpt", "model/own", ".old-notes/deep", ".partial-mine.csv")


def foreign(folder: Path) -> Path:
    for name in FOREIGN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine", encoding="utf-8")
    return folder


def test_what_is_no_runs_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    begin(foreign(tmp_path), {}, {})
    remove_leftovers(tmp_path)
    assert all((tmp_path / name).is_file() for name in FOREIGN)
    assert not caplog.text


def test_a_folder_that_holds_no_run_is_refused_before_anything_is_written(here: Path) -> None:
    folder = foreign(here / "own")
    before = sorted(folder.rglob("*"))
    outcome = commands.run("mtl.train", "backbone=tiny", f"hydra.run.dir={folder}")
    assert outcome.code == 2
    assert outcome.err == (
        f"Configuration: 1 problem\n  hydra.run.dir\n      found:    {folder}, but it holds .old-notes, "
        ".partial-mine.csv, checkpoints, metrics.json, model and no run of mtl\n"
        "      expected: a new or empty folder, or that of an earlier run, with files of its own\n"
        "      repair:   choose another folder\n"
    )
    assert sorted(folder.rglob("*")) == before


def test_a_job_of_a_sweep_refuses_it_too(here: Path) -> None:
    foreign(here / "sweep" / "1")
    outcome = commands.run("mtl.train", "-m", "backbone=tiny", "seed=1,2", "hydra.sweep.dir=sweep")
    assert outcome.code == 2
    assert f"found:    {here / 'sweep' / '1'}, but it holds" in outcome.err
    assert not (here / "sweep" / "multirun.yaml").exists()


@pytest.mark.parametrize("record", ["{}", "[]", '{"choices": 1}', "no JSON"])
def test_a_record_of_something_else_is_no_run(record: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(record, encoding="utf-8")
    assert problem_with(tmp_path) == "it holds run.json and no run of mtl"


def test_what_stands_there_before_a_run_has_begun_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    for name in ("train.log", "job.json", ".running", ".partial-0123456789abcdef.json"):
        (tmp_path / name).touch()
    assert problem_with(tmp_path) == problem_with(tmp_path / "new") == ""


@pytest.mark.parametrize("name", ["train.log", "checkpoints", "logs/metrics.csv", ".running", "model/own"])
def test_no_link_is_followed_out_of_a_run(name: str, here: Path) -> None:
    folder = run(here / "outputs" / "run", 1)
    (here / "shell").write_text("alias", encoding="utf-8")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(here / "shell")
    expected = f"{name} in it is a link to {here / 'shell'}, outside of it"
    for arguments in (["resume=outputs/run"], ["resume=auto"], ["backbone=tiny", "hydra.run.dir=outputs/run"]):
        outcome = commands.run("mtl.train", *arguments)
        assert outcome.code == 2
        assert f"found:    {folder}, but {expected}" in outcome.err
    for module in ("mtl.report", "mtl.diagnose"):
        assert expected in commands.run(module, "run=outputs/run").err
    assert (here / "shell").read_text(encoding="utf-8") == "alias"


def test_a_link_within_a_run_and_to_a_run_are_no_obstacle(here: Path) -> None:
    folder = run(here / "run", 1)
    (folder / "train.log").symlink_to("other.log")
    (here / "link").symlink_to(folder)
    assert problem_with(folder) == problem_with(here / "link") == ""


@pytest.mark.parametrize("moment", range(8))
def test_a_process_killed_while_a_run_replaces_another_never_leaves_the_earlier_run_resumable(
    moment: int, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier run is whole, or gone; the configuration that stands there is that of the results beside it."""
    folder = run(here / "run", 1, finished=True)
    (folder / "model").mkdir()
    (folder / "report.md").touch()
    steps = 0

    def may_die(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **rest: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps > moment:
                raise KeyboardInterrupt
            return original(*arguments, **rest)

        return wrapped

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        for name in ("_remove", "write_json", "write_text_atomically", "sync_folder"):
            patch.setattr(run_folder, name, may_die(getattr(run_folder, name)))
        patch.setattr(Path, "unlink", may_die(Path.unlink))
        begin(folder, {}, {"seed": 2})
    config = (folder / "config.yaml").read_text(encoding="utf-8") if (folder / "config.yaml").exists() else None
    whole = all((folder / name).exists() for name in ("model", "report.md", "metrics.json"))
    assert (config, whole) in (("seed: 1\n", True), ("seed: 2\n", False)) or config is None
    if config is None:
        outcome = commands.run("mtl.train", "resume=run")
        assert outcome.code == 2
        assert f"{folder}: a run that ended before its first step" in outcome.err
        assert "start it again with its command" in outcome.err
    begin(folder, {}, {"seed": 2})
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "run.json"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"choices": 3}'])
def test_choices_that_cannot_be_read_are_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content, encoding="utf-8")
    assert choices_of(tmp_path) == choices_of(tmp_path / "gone") == {}


def test_leftovers(tmp_path: Path) -> None:
    run(tmp_path, 1)
    left = "0123456789abcdef"
    for folder in (f".partial-{left}/deep", "logs", f".old-{left}", "own"):
        (tmp_path / folder).mkdir(parents=True)
    for file in (f"logs/.partial-{left}.csv", f"own/.partial-{left}.csv", ".partial-0123", ".old-plans"):
        (tmp_path / file).touch()
    remove_leftovers(tmp_path)
    names = sorted(path.name for path in tmp_path.rglob("*"))
    assert names == [".old-plans", ".partial-0123", f".partial-{left}.csv", "config.yaml", "logs", "own", "run.json"]


def test_a_run_that_is_refused_has_removed_nothing(here: Path) -> None:
    folder = run(here / "run", 1, finished=True)
    (folder / ".partial-0123456789abcdef.json").touch()
    before = sorted(folder.rglob("*"))
    bad = ["data=files", "data.tasks.mood.path=missing.csv", "hydra.run.dir=run"]
    assert commands.run("mtl.train", "backbone=tiny", *bad).code == 2
    assert set(before) <= set(folder.rglob("*"))


def test_a_second_run_in_a_folder_at_work_touches_nothing(here: Path) -> None:
    folder = run(here / "run", 1)
    code = "import sys, pathlib; from mtl.base.run_folder import in_use\nwith in_use(pathlib.Path(sys.argv[1])):\n"
    code += "    print('ready', flush=True); sys.stdin.read()"
    pipe, root = subprocess.PIPE, Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], cwd=root, stdin=pipe, stdout=pipe, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        before = sorted(folder.rglob("*"))
        outcome = commands.run("mtl.train", "backbone=tiny", "hydra.run.dir=run")
        assert outcome.code == 2
        assert f"hydra.run.dir\n      found:    {folder}, in use by another process" in outcome.err
        assert sorted(folder.rglob("*")) == before
        other.kill()


def test_a_disk_that_is_full_before_hydra_writes_is_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "config.yaml")

    monkeypatch.setattr("hydra.core.utils._save_config", full)
    outcome = commands.run("mtl.train", "backbone=tiny", "hydra.run.dir=run")
    assert outcome.code == 2
    assert outcome.err == (
        "Input: 1 problem\n  config.yaml\n      found:    No space left on device\n"
        "      expected: a file that can be read or written here\n"
        "      repair:   free some space; what is there already is whole\n"
    )


def test_a_log_that_cannot_be_opened_is_told(here: Path) -> None:
    (here / "run" / "train.log").mkdir(parents=True)
    outcome = commands.run("mtl.train", "backbone=tiny", "hydra.run.dir=run")
    assert outcome.code == 2
    assert "found:    Is a directory" in outcome.err


def test_a_block_within_another_keeps_the_folder(tmp_path: Path) -> None:
    with in_use(tmp_path):
        with in_use(tmp_path):
            pass
        assert (tmp_path / ".running").exists()
    assert not (tmp_path / ".running").exists()


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


def test_a_path_that_is_no_text_is_refused(tmp_path: Path) -> None:
    assert problem_with(tmp_path / "a\udcff" / "run") == "its path is not UTF-8, as the files of a run must be"
