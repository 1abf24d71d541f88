"""The run folder as a whole: whether its run is finished or in progress, and what the run was started with."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import yaml
from filelock import FileLock, Timeout

from mtl.base.errors import ConfigError, DiskError, ModelError, Problem, listed
from mtl.base.files import not_pipe, sync_folder, write_json, write_text_atomically

log = logging.getLogger(__name__)

CONFIG: Final = "config.yaml"
MANIFEST: Final = "mtl.json"
"""The description of a saved model, in its folder."""
METRICS: Final = "metrics.json"
"""Written last: a run with this file is finished."""
RECORD: Final = "run.json"
CHECKPOINTS: Final = "checkpoints"
OUTPUTS: Final = "outputs"
RESULTS: Final = (
    "metrics.json",
    "report.md",
    "report.html",
    "checkpoints/*.ckpt",
    "logs/metrics.csv",
    "logs/trackers.json",
    "logs/events.out.tfevents.*",
    "logs/hparams.yaml",
    "predictions/*.csv",
    "errors/*.csv",
    "figures/*.svg",
    "maps/*.npz",
    "bad_steps/step_*.json",
    "diagnosis/diagnosis.*",
    "diagnosis/*.csv",
    "diagnosis/learning_curves_*.svg",
    "model",
)
"""What a run, and a diagnosis of it, write beside its configuration and its log; the model is a folder of its own."""
_LOCK: Final = ".running"
DATA: Final = "training_data"
"""The rows that a run from Python was given in memory."""
_BEFORE: Final = (".hydra", "train.log", "job.json", DATA, _LOCK)
"""What Hydra, a study, `mtl.train` or `in_use` write to a folder before the run in it has begun."""
_FOLDERS: Final = tuple(dict.fromkeys(name.partition("/")[0] for name in RESULTS if "/" in name))
_LEFT: Final = re.compile(r"\.(partial|old)-[0-9a-f]{16}(\.\w+)?")
"""The temporary names of `mtl.base.files.replacing` and of a model that is being replaced."""
FREE: Final = "a new or empty folder, or that of an earlier run, with files of its own"
_ENDS_OF_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def problem_with(folder: Path) -> str:
    """Return why no run may begin or resume in a folder, because it holds other files or links; empty if one may."""
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        return "its path is not UTF-8, as the files of a run must be"
    if not folder.is_dir():
        return ""
    if reason := _link_out(folder):
        return reason
    if _is_run(folder):
        return ""
    others = sorted(path.name for path in folder.iterdir() if path.name not in _BEFORE and not _LEFT.match(path.name))
    return f"it holds {listed(others, most=5)} and no run of mtl" if others else ""


def check(folder: Path, *, only_links: bool = False) -> None:
    """Raise a `ConfigError` for a folder in which no run may be written, see `problem_with`.

    With ``only_links``, to add something to a run that is there, only links out of the folder are refused.
    """
    if reason := _link_out(folder) if only_links else problem_with(folder):
        raise ConfigError(Problem("run folder", f"{folder}, but {reason}", FREE, "choose another folder"))


def _is_run(folder: Path) -> bool:
    return _noted_choices(folder) is not None


def _noted_choices(folder: Path) -> dict[str, Any] | None:
    """Return the choices that `begin` noted in a folder; None if it has noted no run there that can be read."""
    try:
        choices = json.loads(not_pipe(folder / RECORD).read_text(encoding="utf-8"))["choices"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return choices if isinstance(choices, dict) else None


def _link_out(folder: Path) -> str:
    """Return which file of a run is a link to a place outside of its folder; empty if none is."""
    home = folder.resolve()
    for name in (*_BEFORE, CONFIG, RECORD, *dict.fromkeys(result.partition("/")[0] for result in RESULTS)):
        top = folder / name
        below = top.rglob("*") if top.is_dir() and not top.is_symlink() else ()
        for path in (top, *below):
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                return f"{path.relative_to(folder)} in it is a link to {path.resolve()}, outside of it"
    return ""


def begin(folder: Path, choices: Mapping[str, str], config: Mapping[str, Any], *, keep: Path | None = None) -> None:
    """Prepare a folder for a new run: write its configuration, and the choice made in each configuration group.

    The results of an earlier run in the folder are removed, since they would be taken for this run's. The earlier
    configuration is removed first and the new one written last, so that a process killed in between leaves a folder
    that cannot be resumed, rather than the earlier run without some of its files.
    ``keep`` is a file or folder in it that this run starts from, not to be removed.
    """
    if _is_run(folder):
        (folder / CONFIG).unlink(missing_ok=True)
        sync_folder(folder)
        results = [path for pattern in RESULTS for path in folder.glob(pattern)]
        if results:
            log.warning("the run that was in %s is replaced by this one", folder)
        for path in results:
            if keep is None or path.absolute() != keep.absolute():
                _remove(path)
        for name in _FOLDERS:
            with suppress(OSError):  # it holds files of another program
                (folder / name).rmdir()
    write_json(folder / RECORD, {"choices": dict(choices)})
    write_text_atomically(folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=False))


def reopen(folder: Path, config: Mapping[str, Any]) -> None:
    """Let a run continue with another configuration, plain values; if it is finished, it no longer is."""
    (folder / METRICS).unlink(missing_ok=True)  # first: a process killed in between leaves the run as it was, to resume
    sync_folder(folder)
    write_text_atomically(folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=False))


def choices_of(folder: Path) -> dict[str, str]:
    """Return the choices that `begin` wrote; none if they cannot be read, since they are only shown."""
    return {group: str(choice) for group, choice in (_noted_choices(folder) or {}).items()}


def is_finished(folder: Path) -> bool:
    """Whether the run in a folder is finished."""
    return (folder / METRICS).is_file()


def run_to_resume(value: str) -> Path:
    """Return the folder of ``resume=``: a run folder, or with ``auto`` the latest unfinished run in ``outputs``."""
    if value == "auto":
        root = Path(OUTPUTS).absolute()
        runs = [path.parent for path in root.rglob(CONFIG) if (path.parent / RECORD).is_file()]
        unfinished = [run for run in runs if not is_finished(run) and not is_in_use(run)]
        if not unfinished:
            found = f"auto, and none of the {len(runs)} runs below {root} is unfinished"
            raise ConfigError(Problem("resume", found, "the folder of a run", f"resume={OUTPUTS}/<date>/<time>"))
        folder = max(unfinished, key=lambda run: ((run / RECORD).stat().st_mtime_ns, run))
    else:
        folder = Path(value).expanduser().absolute()
        missing = next((name for name in (CONFIG, RECORD) if not (folder / name).is_file()), None)
        if missing is not None:
            found = f"{folder}: " + (f"no {missing} in it" if folder.is_dir() else "no such folder")
            repair = f"resume={OUTPUTS}/<date>/<time>"
            if (folder / RECORD).is_file():
                found, repair = f"{folder}: a run that ended before its first step", "start it again with its command"
            raise ConfigError(Problem("resume", found, "the folder of a run, or auto", repair))
    check(folder)
    return folder


_kept: set[Path] = set()  # the folders that this process has locked


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Lock a run folder for this process inside the block; the operating system releases it with the process.

    A nested block for the same folder changes nothing; a folder that another process uses is a `ConfigError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = folder.resolve()
    if place in _kept:
        yield
        return
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        expected = "a folder in which no other process trains"
        raise ConfigError(Problem("run folder", f"{folder}, in use by another process", expected)) from None
    _kept.add(place)
    try:
        yield
    finally:
        _kept.discard(place)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def is_in_use(folder: Path) -> bool:
    """Whether another process uses a folder."""
    if not (folder / _LOCK).is_file() or (folder / _LOCK).is_symlink():
        return False
    try:
        with in_use(folder):
            return False
    except ConfigError:
        return True


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that a killed run left, by the names and places that a run uses."""
    if not _is_run(folder):
        return
    for place in (folder, *(folder / name for name in _FOLDERS)):
        for path in place.glob(".*"):
            if _LEFT.fullmatch(path.name):
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def resume_command(folder: Path) -> str:
    """Return the command that resumes the run in a folder, for a shell."""
    return f"python -m mtl.train resume={shlex.quote(str(folder))}"


@contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Raise a `DiskError` with the repair for the errors that libraries raise on a full disk inside the block."""
    try:
        yield
    except Exception as error:
        if not _says_full(error):
            raise
        name = getattr(error, "filename", None)
        found = f"no space left for {os.fspath(name)}" if name else "no space left"
        expected = "space for the model, and three times that for the checkpoints of a training"
        repair = f"free some, then: {resume_command(folder)}"
        raise DiskError(Problem(str(folder), found, expected, repair)) from None


def _says_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _ENDS_OF_SPACE
    return type(error).__name__ == "SafetensorError" and any(
        f"os error {code})" in str(error) for code in _ENDS_OF_SPACE
    )


def find_model(path: Path) -> Path:
    """Return the folder of the saved model: ``path`` itself, or ``model/`` in it; otherwise raise a `ModelError`."""
    for folder in (path, path / "model"):
        if (folder / MANIFEST).is_file():
            return folder
    expected = f"a saved model, a folder with {MANIFEST}, or a run folder with model/"
    if not path.is_dir():
        found = "a file" if path.exists() else "no such folder"
        raise ModelError(Problem(str(path), found, expected, "give the run folder that training printed at its end"))
    content = listed(sorted(entry.name for entry in path.iterdir())) or "nothing"
    repair = "a run writes its model at its end: see its train.log"
    raise ModelError(Problem(str(path), f"a folder that holds {content}", expected, repair))


def log_into(folder: Path) -> None:
    """Configure logging as in conf/hydra/default.yaml: plain lines on the terminal, with times in ``train.log``."""
    console = logging.StreamHandler(sys.stdout)
    file = logging.FileHandler(folder / "train.log", encoding="utf-8")
    file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[console, file])
