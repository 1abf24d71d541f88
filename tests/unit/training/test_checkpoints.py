"""Checkpoint files: whole, or the one before; no code in them."""

from __future__ import annotations

import errno
import io
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch

from mtl.base.errors import ModelError
from mtl.training import checkpoints
from mtl.training.checkpoints import CheckpointFiles, read_checkpoint, verify_checkpoint, write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

STATE: dict[str, Any] = {"weights": torch.arange(6.0).reshape(2, 3), "epoch": 3, "names": ["a", "ü"]}


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "last.ckpt"
    write_checkpoint(path, STATE)
    for mapped in (False, True):
        found = read_checkpoint(path, mapped=mapped)
        assert torch.equal(found.pop("weights"), STATE["weights"])
        assert found == {"epoch": 3, "names": ["a", "ü"]}
    assert [each.name for each in path.parent.iterdir()] == ["last.ckpt"]


def test_other_readers_open_it(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(path, STATE)
    assert torch.load(path, weights_only=True)["epoch"] == 3
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"mtl sha256 ")


def test_the_one_before_is_kept(tmp_path: Path) -> None:
    files = CheckpointFiles()
    for epoch in range(3):
        files.save_checkpoint({"epoch": epoch}, tmp_path / "last.ckpt")
        files.save_checkpoint({"epoch": epoch}, tmp_path / "best.ckpt")
    epochs = {path.name: files.load_checkpoint(path)["epoch"] for path in tmp_path.iterdir()}
    assert epochs == {"last.ckpt": 2, "previous.ckpt": 1, "best.ckpt": 2}
    files.remove_checkpoint(tmp_path / "best.ckpt")
    files.remove_checkpoint(tmp_path / "best.ckpt")
    assert not (tmp_path / "best.ckpt").exists()


def sealed(path: Path, content: bytes) -> Path:
    """Write a zip archive with its checksum."""
    path.write_bytes(content)
    checkpoints._seal(path)
    return path


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("ran",)


def test_pickled_objects_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = io.BytesIO()
    torch.save({"weights": Evil()}, archive)
    path = sealed(tmp_path / "last.ckpt", archive.getvalue())
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == (
        f"Model: 1 problem\n  {path}\n"
        "      found:    pickled objects\n"
        "      expected: tensors and plain values: nothing else is loaded, since pickled objects can run code"
    )
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [pickle.dumps(Evil()), b"", b"PK", b"x" * 1000])
def test_what_has_no_checksum_is_not_even_opened(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == (
        f"Model: 1 problem\n  {path}\n"
        "      found:    a changed, damaged or cut off file: its checksum differs\n"
        "      expected: a checkpoint as mtl.train wrote it"
    )


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        verify_checkpoint(tmp_path / "none.ckpt")
    assert str(caught.value) == (
        f"Model: 1 problem\n  {tmp_path / 'none.ckpt'}\n"
        "      found:    no such file\n"
        "      expected: a checkpoint as mtl.train wrote it"
    )


@pytest.mark.parametrize("at", [0, 1, 8])
def test_a_full_disk_leaves_the_old_one_and_nothing_else(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path / "last.ckpt", {"epoch": 0})
    save = torch.save

    class Filling(io.BytesIO):
        written = 0

        def write(self, data: Any) -> int:
            if self.written == at:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.written += 1
            return super().write(data)

    monkeypatch.setattr(torch, "save", lambda checkpoint, _: save(checkpoint, Filling()))
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_checkpoint(tmp_path / "last.ckpt", STATE, tmp_path / "previous.ckpt")
    assert caught.value.errno == errno.ENOSPC
    assert read_checkpoint(tmp_path / "last.ckpt") == {"epoch": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
