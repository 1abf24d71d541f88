"""Checkpoint files: whole or not there, with their checksum inside, and without code.

A checkpoint is what `torch.save` writes, a zip archive, with the SHA-256 of everything before it as the archive's
comment: one file, so that content and checksum can't be of two different moments, and any reader of PyTorch opens it.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar, cast

import torch
from lightning.fabric.plugins.io import CheckpointIO

from mtl.base.errors import ModelError, Problem
from mtl.base.files import replacing, sync_file

T = TypeVar("T")
_MARK: Final = b"mtl sha256 "
_COMMENT_BYTES: Final = len(_MARK) + 64
_LENGTH_BYTES: Final = 2
"""The field at the end of a zip archive that says how long its comment is (APPNOTE.TXT, section 4.3.16)."""
_BLOCK: Final = 1 << 22


def write_checkpoint(path: Path, checkpoint: dict[str, Any], previous: Path | None = None) -> None:
    """Write a checkpoint under a temporary name, sync it, then rename it.

    Args:
        path: The file to write or to replace.
        checkpoint: Tensors and plain values in plain containers.
        previous: Where the file that stands at ``path`` goes once the new one is whole; nowhere: it is replaced.

    Raises:
        OSError: It cannot be written, as when the disk is full; what stood at ``path`` is left alone.
    """
    with replacing(path) as temporary:
        _save(checkpoint, temporary)
        _seal(temporary)
        if previous is not None and path.exists():
            sync_file(temporary)  # before the good one steps aside
            path.replace(previous)


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    """Save, and raise the error of the file system where PyTorch hides it behind one of its own."""
    with path.open("wb") as file:
        guarded = _Guarded(file)
        try:
            torch.save(checkpoint, cast("BinaryIO", guarded))  # write and flush are all that it needs
        except RuntimeError:
            if guarded.error is not None:
                raise guarded.error from None
            raise


class _Guarded:
    """A file that remembers why it could not be written: PyTorch's writer turns every such reason into its own."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        return self._try(lambda: self._file.write(data))

    def flush(self) -> None:
        self._try(self._file.flush)

    def _try(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except OSError as error:
            self.error = error
            raise


def _seal(path: Path) -> None:
    """Write the checksum behind the archive, as its comment."""
    with path.open("r+b") as file:
        file.seek(-_LENGTH_BYTES, os.SEEK_END)
        file.write(_COMMENT_BYTES.to_bytes(_LENGTH_BYTES, "little"))
        size = file.tell()
        file.flush()
        file.seek(0)
        checksum = _checksum(file, size)
        file.seek(size)
        file.write(_MARK + checksum.encode())


def _checksum(file: BinaryIO, size: int) -> str:
    """Return the SHA-256 of the next ``size`` bytes of the file."""
    digest = hashlib.sha256()
    while size > 0 and (block := file.read(min(_BLOCK, size))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()


def verify_checkpoint(path: Path) -> None:
    """Check that the file is what was written.

    Raises:
        ModelError: It is not there, cannot be read, or has been changed, damaged or cut off.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END) - _COMMENT_BYTES
            file.seek(max(size, 0))
            comment = file.read()
            file.seek(0)
            whole = size > 0 and comment == _MARK + _checksum(file, size).encode()
    except OSError as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else f"not readable: {error.strerror}"
        raise ModelError(Problem(str(path), found, _EXPECTED)) from None
    if not whole:
        found = "a changed, damaged or cut off file: its checksum differs"
        raise ModelError(Problem(str(path), found, _EXPECTED))


_EXPECTED: Final = "a checkpoint as mtl.train wrote it"


def read_checkpoint(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """Return a checkpoint with its tensors on the CPU, once its checksum has been found right.

    Args:
        path: The file.
        mapped: Read tensors only when they are looked at; the file must not change meanwhile.

    Raises:
        ModelError: It is not what was written, or holds pickled objects, which could run code.
    """
    verify_checkpoint(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError:
        expected = "tensors and plain values: nothing else is loaded, since pickled objects can run code"
        raise ModelError(Problem(str(path), "pickled objects", expected)) from None
    except (RuntimeError, EOFError, ValueError) as error:
        raise ModelError(Problem(str(path), f"not readable: {error}", _EXPECTED)) from None
    if not isinstance(checkpoint, dict):
        raise ModelError(Problem(str(path), f"a {type(checkpoint).__name__}", _EXPECTED))
    return checkpoint


class CheckpointFiles(CheckpointIO):
    """Has Lightning write and read its checkpoints as this module does.

    Args:
        previous: For files of these names, the name under which the one before is kept.
    """

    def __init__(self, previous: dict[str, str] | None = None) -> None:
        self._previous = dict(previous or {})

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint, see `write_checkpoint`."""
        del storage_options
        path = Path(path)
        previous = self._previous.get(path.name)
        write_checkpoint(path, checkpoint, None if previous is None else path.with_name(previous))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return a checkpoint, see `read_checkpoint`, whatever the other arguments allow."""
        del map_location, weights_only
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint, if it is there."""
        Path(path).unlink(missing_ok=True)
