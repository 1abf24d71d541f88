"""Checkpoint files that hold no code and their own checksum; the random state and the curves that belong to them.

A checkpoint is a zip archive of `torch.save` with the SHA-256 of everything before it as the archive's comment. Content
and checksum are one file, so they always belong together, and PyTorch can read it as usual.
"""

from __future__ import annotations

import csv
import hashlib
import os
import pickle
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

import lightning
import numpy as np
import torch
import transformers
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import CheckpointIO

import mtl
from mtl.base.errors import ModelError, Problem
from mtl.base.files import not_pipe, replacing, sync_file

LAST: Final = "last.ckpt"
PREVIOUS: Final = "previous.ckpt"
"""The resume point before `LAST`, used if `LAST` is damaged."""
_MARK: Final = b"mtl sha256 "
_COMMENT_BYTES: Final = len(_MARK) + 64
_LENGTH_BYTES: Final = 2
"""The field at the end of a zip archive with the length of its comment (APPNOTE.TXT, section 4.3.16)."""
_BLOCK: Final = 1 << 22


def write_checkpoint(path: Path, checkpoint: dict[str, Any], previous: Path | None = None) -> None:
    """Write tensors and plain values under a temporary name, flush them to the disk, then rename the file.

    An existing file is renamed to ``previous``, or replaced. After an `OSError`, as on a full disk, it is unchanged.
    """
    with replacing(path) as temporary:
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # a failed write, after which PyTorch's writer fails in turn
                raise error.__context__ from None
            raise
        _seal(temporary)
        if previous is not None and path.exists():
            sync_file(temporary)  # before the old one is renamed
            path.replace(previous)


def _seal(path: Path) -> None:
    """Append the checksum to the archive as its comment."""
    with path.open("r+b") as file:
        file.seek(-_LENGTH_BYTES, os.SEEK_END)
        file.write(_COMMENT_BYTES.to_bytes(_LENGTH_BYTES, "little"))
        file.seek(0)
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
        file.write(_MARK + checksum.encode())


def _checksum(file: BinaryIO, size: int) -> str:
    """Return the SHA-256 of the next ``size`` bytes of the file."""
    digest = hashlib.sha256()
    while size > 0 and (block := file.read(min(_BLOCK, size))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()


def verify_checkpoint(path: Path) -> None:
    """Check that a file is a checkpoint as it was written.

    Raises:
        ModelError: The file is missing, unreadable, changed, damaged or truncated.
    """
    try:
        with not_pipe(path).open("rb") as file:
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
    """Return a checkpoint with its tensors on the CPU, or mapped from the file, which must not change meanwhile.

    Raises:
        ModelError: The file is not as it was written, or holds pickled objects, which could run code.
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
    """Write and read the checkpoints of Lightning as this module does; the file before `LAST` is kept as `PREVIOUS`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint, see `write_checkpoint`."""
        path = Path(path)
        write_checkpoint(path, checkpoint, path.with_name(PREVIOUS) if path.name == LAST else None)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return a checkpoint, see `read_checkpoint`; the other arguments are ignored."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint if it exists."""
        Path(path).unlink(missing_ok=True)


class CurveLog(Logger):
    """Write ``logs/metrics.csv`` in a run folder: a row for each step that is logged, columns in alphabetical order.

    Lightning's `CSVLogger` deletes the file when it starts and rewrites it in place for a new column: a process killed
    in between would lose it. Of an existing file the first ``kept`` rows stay: the later ones belong to steps that will
    be repeated.
    """

    name = "logs"
    version = ""

    def __init__(self, folder: Path, kept: int = 0) -> None:
        super().__init__()
        self._path = folder / self.name / "metrics.csv"
        self._kept: int | None = kept
        self._columns: list[str] = []
        self._waiting: list[dict[str, Any]] = []
        self.rows = 0

    @property
    def save_dir(self) -> str:
        """The run folder, in which Lightning's profilers write."""
        return str(self._path.parents[1])

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Ignore the hyperparameters: a run keeps its own configuration."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keep a row of scalars in memory until `save`."""
        values = {name: value.item() if isinstance(value, torch.Tensor) else value for name, value in metrics.items()}
        self._waiting.append({**values, "step": step})

    def save(self) -> None:
        """Write the rows that wait in memory."""
        if self._kept is not None:
            self._start(self._kept)
        if not self._waiting:
            return
        rows, self._waiting = self._waiting, []
        columns = sorted({*self._columns, *(name for row in rows for name in row)})
        if columns == self._columns:
            with self._path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, columns).writerows(rows)
        else:
            _write(self._path, columns, [*_read(self._path)[1], *rows])
        self._columns = columns
        self.rows += len(rows)

    def finalize(self, status: str) -> None:
        """Write the rows that wait in memory."""
        self.save()

    def sync(self) -> int:
        """Flush all rows to the disk and return their number."""
        self.save()
        if self._path.is_file():
            sync_file(self._path)
        return self.rows

    def _start(self, kept: int) -> None:
        """Leave an existing file with its first ``kept`` rows."""
        self._kept = None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._columns, rows = _read(self._path, kept)
        self.rows = len(rows)
        if rows:
            _write(self._path, self._columns, rows)
        else:
            self._path.unlink(missing_ok=True)


def _read(path: Path, most: int | None = None) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the columns and the first rows; nothing if there is no file or no row is wanted."""
    if most == 0 or not path.is_file():
        return [], []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(islice(reader, most))
        return list(reader.fieldnames or ()), rows


def _write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def versions() -> dict[str, str]:
    """Return the versions of the packages that compute."""
    modules = {"mtl": mtl, "torch": torch, "lightning": lightning, "transformers": transformers}
    return {name: str(module.__version__) for name, module in modules.items()}


def random_state() -> dict[str, Any]:
    """Return the state of Python's, NumPy's and PyTorch's global generators."""
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - the global generator, which libraries use
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
    }


def to_json(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a random state as values for JSON."""
    name, keys, *rest = state["numpy"]
    cards = [card.tolist() for card in state["cuda"]]
    mps = None if state["mps"] is None else state["mps"].tolist()
    numbers = {"numpy": [name, keys.tolist(), *rest], "torch": state["torch"].tolist(), "cuda": cards, "mps": mps}
    return {**state, **numbers}


def from_json(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the random state from what `to_json` returned."""
    name, keys, *rest = state["numpy"]
    cards = [torch.tensor(card, dtype=torch.uint8) for card in state["cuda"]]
    mps = None if state["mps"] is None else torch.tensor(state["mps"], dtype=torch.uint8)
    generator = torch.tensor(state["torch"], dtype=torch.uint8)
    return {**state, "numpy": [name, torch.tensor(keys), *rest], "torch": generator, "cuda": cards, "mps": mps}


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Restore what `random_state` returned."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002 - as above
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    if state.get("mps") is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
