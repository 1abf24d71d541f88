"""Write files whole or not at all: under a temporary name, synced to the disk, then renamed."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import numbers
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import yaml

_PACKAGE: Final = Path(__file__).resolve().parents[1]
CONF: Final = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""The configuration groups: in the installed package, or beside it in a checkout and an editable install."""
_BLANK: Final = "0" * 64
_PARTIAL: Final = re.compile(r"\.partial-[0-9a-f]{16}(\.\w+)?")
_WRITTEN_SECONDS: Final = 24 * 3600.0
"""Writing a file never takes longer: an older temporary file was left by a process that was killed."""
_SEAL: Final = re.compile(rb'"checksum": "([0-9a-f]{64})"\n\}\n\Z')


def cache_root() -> Path:
    """Return the folder of everything that is cached: ``$MTL_CACHE_DIR``, or ``~/.cache/mtl`` if that is not set."""
    return expanded(os.environ.get("MTL_CACHE_DIR") or "~/.cache/mtl")


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return the path with the home folder in place of ``~``; unchanged if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


class _WithoutAliases(yaml.SafeLoader):
    """Refuses aliases: a few lines of them can expand to more than fits into memory, or be recursive."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("an alias (*), which no run writes")
        return super().compose_node(parent, index)


def not_pipe(path: Path) -> Path:
    """Return the path; raise an `OSError` for a pipe, which would be waited for without end, a socket or a device."""
    if not path.is_dir() and not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "a pipe, a socket or a device, not a file", str(path))
    return path


def read_yaml(path: Path) -> Any:
    """Return the plain values in a YAML file that a run has written; raise a `ValueError` if it is not valid."""
    text = not_pipe(path).read_text(encoding="utf-8")
    try:
        return yaml.load(text, _WithoutAliases)  # noqa: S506 - a safe loader
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except Exception as error:  # noqa: BLE001 - of a wrong tag PyYAML raises AttributeError, KeyError and others
        raise ValueError(str(error)) from None


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to ``path`` if the block ends without an exception.

    A reader of ``path`` sees the old file or the whole new one, also after a crash or a power cut. The temporary file
    is in the same folder (a rename across file systems is not atomic) and has the same suffix, which some writers
    check. Missing folders are made. A symbolic link stays one: its target is replaced. An `OSError` of the block that
    names no file gets the name of ``path``.
    """
    target = Path(path).resolve()
    if target.exists():
        not_pipe(target)  # a rename would remove it, /dev/null too
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    temporary = target.with_name(f".partial-{secrets.token_hex(8)}{target.suffix}")
    try:
        yield temporary
        sync_file(temporary)
        temporary.replace(target)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


@contextmanager
def writing_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder to fill, and rename it to ``path``, new or empty, if the block ends without an error.

    It lies beside ``path``, and nothing of it stays if the block fails.
    """
    target = Path(path).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".partial-{secrets.token_hex(8)}")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                sync_file(file)
        if target.is_dir():
            target.rmdir()  # an empty one; Windows does not rename onto it
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(target.parent)


def _remove_abandoned(target: Path) -> None:
    """Remove temporary files beside a target that no living process can still be writing."""
    for path in target.parent.glob(f".partial-*{glob.escape(target.suffix)}"):
        with suppress(OSError):
            if _PARTIAL.fullmatch(path.name) and time.time() - path.lstat().st_mtime > _WRITTEN_SECONDS:
                path.unlink()


def write_text_atomically(path: str | Path, text: str) -> None:
    r"""Write ``text`` as UTF-8, its line ends unchanged, so that ``path`` is never seen half written.

    A lone surrogate, as in a file name that is not UTF-8, is written as its escape: ``\udcff``.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` atomically as strict, indented JSON with a newline at its end.

    NaN and infinities, which JSON does not have, become ``null``; NumPy numbers become plain ones.
    """
    write_text_atomically(path, _json(value))


def write_sealed_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write as `write_json`, with a last key ``checksum`` (in place of one in ``value``) that reveals any change."""
    write_text_atomically(path, sealed_json(value))


def sealed_json(value: Mapping[str, Any]) -> str:
    """Return the text that `write_sealed_json` writes."""
    content = {key: item for key, item in value.items() if key != "checksum"}
    text = _json({**content, "checksum": _BLANK})
    checksum = hashlib.sha256(text.encode()).hexdigest()
    return checksum.join(text.rsplit(_BLANK, 1))


def is_sealed(path: str | Path) -> bool:
    """Whether a file is, byte for byte, what `write_sealed_json` wrote."""
    content = Path(path).read_bytes()
    seal = _SEAL.search(content)
    if seal is None:
        return False
    blank = content[: seal.start(1)] + _BLANK.encode() + content[seal.end(1) :]
    return hashlib.sha256(blank).hexdigest().encode() == seal[1]


def content_checksum(path: Path) -> str:
    """Return the SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(value: Any) -> str:
    return json.dumps(_strict(value), allow_nan=False, ensure_ascii=False, indent=2) + "\n"


def _strict(value: Any) -> Any:
    """Return ``value`` in plain Python types, each number that is not finite replaced by ``None``."""
    match value:
        case None | bool() | str():
            return value
        case numbers.Integral():
            return int(value)
        case numbers.Real():
            return float(value) if math.isfinite(value) else None
        case Mapping():
            return {key: _strict(item) for key, item in value.items()}
        case Sequence():
            return [_strict(item) for item in value]
    return value


def sync_file(path: Path) -> None:
    """Flush a file to the disk."""
    with path.open("r+b") as file:  # Windows syncs only what is open for writing
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Flush renames and removals in a folder to the disk; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def obstacle(folder: Path) -> str:
    """Return why ``folder`` cannot be made or written to; empty if it can."""
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not above.is_dir():
        return f"{above} is a file"
    return "" if os.access(above, os.W_OK | os.X_OK) else f"{above} is not writable"
