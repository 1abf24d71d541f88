"""The folder of a run as a whole: whether its run is over, who is at work in it, and what it was started with."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from mtl.errors import ConfigError, DiskError, Problem
from mtl.files import write_json

log = logging.getLogger(__name__)

CONFIG: Final = "config.yaml"
METRICS: Final = "metrics.json"
"""Written when everything else is: where it is, the run is over."""
RECORD: Final = "run.json"
CHECKPOINTS: Final = "checkpoints"
OUTPUTS: Final = "outputs"
RESULTS: Final = (
    "model",
    "predictions",
    "errors",
    "figures",
    "maps",
    "bad_steps",
    "diagnosis",
    "report.md",
    "report.html",
)
"""What a run, and a diagnosis of it, leave beside its configuration, its log and its curves."""
_LOCK: Final = ".running"
_ENDS_OF_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def begin(folder: Path, choices: Mapping[str, str], *, keep: Path | None = None) -> None:
    """Make a folder ready for a new run, and note what the configuration does not: the choice made in each group.

    What an earlier run left in the folder is removed: it would be taken for this run's, and some of it would stay.

    Args:
        folder: The run folder.
        choices: The choice made in each configuration group.
        keep: What this run itself begins from, if it is in there.
    """
    results = [folder / name for name in RESULTS] if (folder / RECORD).is_file() else []
    if any(path.exists() for path in results):
        log.warning("the run that was in %s is replaced by this one", folder)
    for path in (folder / METRICS, *(folder / CHECKPOINTS).glob("*.ckpt"), *results):
        if keep is None or path.absolute() != keep.absolute():
            _remove(path)
    write_json(folder / RECORD, {"choices": dict(choices)})


def choices_of(folder: Path) -> dict[str, str]:
    """Return the choices that `begin` noted; none if that cannot be read: they are only shown."""
    try:
        choices = json.loads((folder / RECORD).read_text(encoding="utf-8"))["choices"]
        return {str(group): str(choice) for group, choice in choices.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def is_finished(folder: Path) -> bool:
    """Whether the run in a folder has come to its end."""
    return (folder / METRICS).is_file()


def run_to_resume(given: str) -> Path:
    """Return the folder that ``resume=`` means.

    Args:
        given: A run folder, or ``auto``: of the unfinished runs below ``outputs`` the one that was started last.

    Raises:
        ConfigError: There is no such run.
    """
    if given != "auto":
        folder = Path(given).expanduser().absolute()
        if not (folder / CONFIG).is_file():
            found = f"{folder}: " + (f"no {CONFIG} in it" if folder.is_dir() else "no such folder")
            raise ConfigError(
                Problem("resume", found, "the folder of a run, or auto", f"resume={OUTPUTS}/<date>/<time>")
            )
        return folder
    root = Path(OUTPUTS).absolute()
    runs = [path.parent for path in root.rglob(CONFIG) if (path.parent / RECORD).is_file()]
    unfinished = [each for each in runs if not is_finished(each) and not _is_in_use(each)]
    if not unfinished:
        found = f"auto, and none of the {len(runs)} runs below {root} is unfinished"
        raise ConfigError(Problem("resume", found, "the folder of a run", f"resume={OUTPUTS}/<date>/<time>"))
    return max(unfinished, key=lambda each: ((each / RECORD).stat().st_mtime_ns, each))


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep a run folder to this process inside the block; the operating system ends that with the process.

    Raises:
        ConfigError: Another process is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        expected = "a folder in which no other process trains"
        raise ConfigError(Problem("run folder", f"{folder}, in use by another process", expected)) from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _is_in_use(folder: Path) -> bool:
    if not (folder / _LOCK).exists():
        return False
    try:
        with in_use(folder):
            return False
    except ConfigError:
        return True


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that a killed process left in a run folder."""
    for path in (*folder.rglob(".partial-*"), *folder.rglob(".old-*")):
        _remove(path)


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Turn the errors of a full disk inside the block into one that a user can mend.

    Raises:
        DiskError: There was no space left, in whatever words a library says so.
    """
    try:
        yield
    except Exception as error:
        if not _says_full(error):
            raise
        found = f"no space left{_named(error)}"
        expected = "space for the model, and three times that for the checkpoints of a training"
        repair = f"free some, then: python -m mtl.train resume={folder}"
        raise DiskError(Problem(str(folder), found, expected, repair)) from None


def _says_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _ENDS_OF_SPACE
    return type(error).__name__ == "SafetensorError" and any(
        f"os error {code})" in str(error) for code in _ENDS_OF_SPACE
    )


def _named(error: BaseException) -> str:
    name = getattr(error, "filename", None)
    return f" for {os.fspath(name)}" if name else ""
