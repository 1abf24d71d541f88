"""Files are whole or not there, whatever happens in between."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest

from mtl.base.files import expanded, obstacle, read_yaml, replacing, write_json, write_text_atomically, writing_folder
from mtl.model import saved
from mtl.training.checkpoints import write_checkpoint


def test_replacing_writes_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    with replacing(tmp_path / "new" / "weights.bin") as temporary:
        temporary.write_bytes(b"\x00\x01")
    assert (tmp_path / "new" / "weights.bin").read_bytes() == b"\x00\x01"
    assert list(tmp_path.rglob("*")) == [tmp_path / "new", tmp_path / "new" / "weights.bin"]


def test_replacing_shows_the_old_file_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_replacing_keeps_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_refuses_a_block_that_wrote_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "weights.bin"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_replacing_lends_a_hidden_path_in_the_same_folder_with_the_same_suffix(tmp_path: Path) -> None:
    with replacing(tmp_path / "embeddings.npy") as temporary:
        np.save(temporary, np.arange(3))  # adds .npy to a name without it
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".partial-")
    assert np.load(tmp_path / "embeddings.npy").tolist() == [0, 1, 2]


def test_replacing_writes_through_a_symbolic_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    write_text_atomically(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


@pytest.mark.parametrize("text", ["", "ä\n", "a\r\nb\rc\n", "\u2028"])
def test_text_is_written_as_it_is(tmp_path: Path, text: str) -> None:
    write_text_atomically(tmp_path / "report.md", text)
    assert (tmp_path / "report.md").read_bytes() == text.encode()


def test_json_is_strict(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"nan": math.nan, "inside": [math.inf, (-math.inf, 0.1)], "whole": 3, "yes": True, "none": None})
    assert "NaN" not in path.read_text()
    assert json.loads(path.read_text()) == {
        "nan": None,
        "inside": [None, [None, 0.1]],
        "whole": 3,
        "yes": True,
        "none": None,
    }


def test_json_takes_numpy_numbers(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", [np.int64(3), np.float64(0.5), np.float32("nan")])
    assert json.loads((tmp_path / "a.json").read_text()) == [3, 0.5, None]


def test_json_is_readable_by_a_person(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"Größe": 1})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "Größe": 1\n}\n'


def test_json_refuses_other_types_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "a.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_obstacle_names_what_stands_against_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert obstacle(tmp_path / "new" / "folder") == ""
    assert obstacle(tmp_path) == ""
    assert obstacle(file) == f"{file} is a file"
    assert obstacle(file / "folder") == f"{file} is a file"


def test_half_a_surrogate_pair_is_written_as_its_escape(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "\udcff.csv"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "name": "\\udcff.csv"\n}\n'


def test_a_home_folder_of_nobody_is_left_as_it_is() -> None:
    assert expanded("~nobody-is-called-so/a.csv") == Path("~nobody-is-called-so/a.csv")
    assert expanded("~/a.csv") == Path.home() / "a.csv"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a: [x", "while parsing a flow sequence"),
        ("[" * 100_000, "nested too deeply"),
        ("a: &a [x]\nb: [*a, *a]", r"an alias \(\*\), which no run writes"),
        ("&a [*a]", r"an alias \(\*\), which no run writes"),
        ("a: !!timestamp x", "NoneType"),
        ("a: !!bool x", "x"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: 2001-99-99", "month must be in 1..12"),
        ("? [a, b]\n: c", "found unhashable key"),
    ],
)
def test_yaml_that_no_run_writes(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=reason):
        read_yaml(path)


def test_yaml_that_is_no_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ValueError, match="'utf-8' codec can't decode byte 0xff"):
        read_yaml(tmp_path / "a.yaml")


def test_plain_yaml(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [1, x, null, 0.5]\n", encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == {"a": [1, "x", None, 0.5]}


def test_what_a_killed_writer_left_goes_a_day_later(tmp_path: Path) -> None:
    """Only of the same kind, and only names that `replacing` gives."""
    names = {
        ".partial-0123456789abcdef.csv": False,
        ".partial-0123456789abcdef.npy": True,
        ".partial-mine.csv": True,
        "x.partial-0123456789abcdef.csv": True,
    }
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, time.time() - 25 * 3600))
    (tmp_path / ".partial-fedcba9876543210.csv").touch()  # of a writer at work
    write_text_atomically(tmp_path / "a.csv", "1")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"a.csv", ".partial-fedcba9876543210.csv", *(name for name, kept in names.items() if kept)}


def test_files_are_synced_as_windows_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is open for writing."""

    def as_on_windows(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(os, "fsync", as_on_windows)
    monkeypatch.setattr("mtl.base.files.sync_folder", lambda _: None)  # which does nothing there
    write_json(tmp_path / "a.json", {})
    partial, folder = tmp_path / ".partial-model", tmp_path / "model"
    partial.mkdir()
    (partial / "weights").write_bytes(b"1")
    saved._replace_folder(partial, folder)
    write_checkpoint(folder / "last.ckpt", {"a": 1})
    write_checkpoint(folder / "last.ckpt", {"a": 2}, folder / "previous.ckpt")
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "previous.ckpt", "weights"]


@pytest.mark.parametrize("empty", [False, True])
def test_a_folder_appears_whole(tmp_path: Path, empty: bool) -> None:
    if empty:
        (tmp_path / "out").mkdir()
    with writing_folder(tmp_path / "out") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("content")
        assert not (tmp_path / "out" / "inner").exists()
    assert (tmp_path / "out" / "inner" / "file").read_text() == "content"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_stays_of_a_folder_whose_writer_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with writing_folder(tmp_path / "out") as folder:
            (folder / "file").write_text("half")
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(OSError, match="not empty"), writing_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("other")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_not_replaced(tmp_path: Path, linked: bool) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    (tmp_path / "link.csv").symlink_to(pipe)
    with pytest.raises(OSError, match="a pipe, a socket or a device, not a file"):
        write_text_atomically(tmp_path / "link.csv" if linked else pipe, "text")
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.csv", "pipe.csv"]
