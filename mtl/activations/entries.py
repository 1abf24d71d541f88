"""List what the cache folder holds, by kind, and remove entries of a kind; nothing else in it is touched."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mtl.activations import space
from mtl.activations.segments import INDEX, count_rows
from mtl.base.files import cache_root
from mtl.data import table as examples

_EXAMPLES: Final = re.compile(r"[0-9a-f]{64}\.arrow")
_PARTIAL: Final = re.compile(r"\.partial-[0-9a-f]{16}\.arrow")
_TINY: Final = re.compile(r"tiny-\d+")
_PARTIAL_TINY: Final = re.compile(r"\.partial-[0-9a-f]{16}|\.tiny-\w+")
_LIBRARY: Final = re.compile(r"vega-[\w.]+\.js|\.partial-[0-9a-f]{16}\.js")
_WRITTEN_SECONDS: Final = 24 * 3600.0
"""No file is under a temporary name for so long: what is older was left by a process that was killed."""
_STARTING_SECONDS: Final = 60.0
"""A run that has located its tiny model has loaded it after this time."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that can be removed on its own."""

    kind: str  # ``activations``, ``examples``, ``tiny`` or ``pages``
    path: Path  # a file or a folder
    what: str  # what it holds, for a person
    rows: int | None  # how many rows; ``None`` where it has none, or they cannot be counted
    size: int  # bytes on disk
    used: float  # when it was last used (examples: written), in seconds since the epoch
    is_used: bool = False  # whether a process uses it now, as far as that is known


def entries(kind: str | None = None) -> list[Entry]:
    """Return what is cached, of one kind or of all, by kind and with the last used first."""
    kinds = KINDS if kind is None else {kind: KINDS[kind]}
    return [entry for find in kinds.values() for entry in sorted(find(), key=lambda entry: -entry.used)]


def unknown() -> list[Path]:
    """Return what lies in the cache folder and was not put there by mtl."""
    root = cache_root()
    known = {entry.path for entry in entries()}
    folders = {space.default_folder(), examples.default_folder(), root / "pages"}
    others = [path for path in _children(root) if path not in known | folders and not _in_progress(path)]
    for folder in sorted(folders):
        others += [path for path in _children(folder) if path not in known and not _in_progress(path)]
    return others


def remove(entry: Entry) -> bool:
    """Remove an entry, unless a process uses it; return whether it is gone.

    Raises:
        OSError: A file cannot be removed.
    """
    if entry.kind == "activations":
        with space.folder_lock(space.default_folder()):
            return space.remove_source(entry.path)
    if entry.kind == "tiny" and time.time() - entry.used < _STARTING_SECONDS:
        return False
    if entry.path.is_dir():
        shutil.rmtree(entry.path)
    else:
        entry.path.unlink(missing_ok=True)
    return True


def _activations() -> list[Entry]:
    return [
        Entry(
            kind="activations",
            path=source.path,
            what=_what(source.path),
            rows=sum(count_rows(index) or 0 for index in source.path.glob(f"*{INDEX}")),
            size=source.size,
            used=source.used,
            is_used=space.is_used(source.path),
        )
        for source in space.stored_sources(space.default_folder())
    ]


def _examples() -> list[Entry]:
    files = [path for path in _children(examples.default_folder()) if path.is_file() and not path.is_symlink()]
    whole = [path for path in files if _EXAMPLES.fullmatch(path.name)]
    partial = [path for path in files if _PARTIAL.fullmatch(path.name) and _is_left(path)]
    entries = [_entry("examples", path, "rows of a data file", _rows(path)) for path in whole]
    return entries + [_entry("examples", path, "left by a killed process") for path in partial]


def _tiny() -> list[Entry]:
    folders = [path for path in _children(cache_root()) if path.is_dir() and not path.is_symlink()]
    whole = [path for path in folders if _TINY.fullmatch(path.name)]
    partial = [path for path in folders if _PARTIAL_TINY.fullmatch(path.name) and _is_left(path)]
    return [_entry("tiny", path, "small random weights") for path in whole + partial]


def _pages() -> list[Entry]:
    files = [path for path in _children(cache_root() / "pages") if _LIBRARY.fullmatch(path.name)]
    return [_entry("pages", path, "script of the charts in HTML reports") for path in files]


KINDS: Final[dict[str, Callable[[], list[Entry]]]] = {
    "activations": _activations,
    "examples": _examples,
    "tiny": _tiny,
    "pages": _pages,
}


def _entry(kind: str, path: Path, what: str, rows: int | None = None) -> Entry:
    files = path.rglob("*") if path.is_dir() else [path]
    size = sum(file.lstat().st_size for file in files if file.is_file())
    return Entry(kind, path, what, rows, size, path.stat().st_mtime)


def _what(path: Path) -> str:
    """Return what a source's rows are: the facts of its text if it is one of `Source`."""
    description = space.read_description(path)
    if description is None:
        return "description damaged"
    form = f"{description['dim']} × {description['dtype']}"
    try:
        facts = dict(json.loads(description["source"]))
        boundary, weights = facts["boundary"], facts["weights"][:8]
        layer = "embeddings" if boundary == "embedding" else f"hidden states above {boundary} layers"
        return f"{layer} in {facts['precision']} of weights {weights}, {form}"
    except (ValueError, TypeError, KeyError):
        return f"{description['source']}, {form}"


def _rows(path: Path) -> int | None:
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            return sum(int(batch.num_rows) for batch in stream)
    except (OSError, pa.ArrowInvalid):
        return None


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_left(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > _WRITTEN_SECONDS


def _in_progress(path: Path) -> bool:
    """Tell whether it is a lock, or something that another process may be writing now."""
    return path.name == space.LOCK or any(pattern.fullmatch(path.name) for pattern in (_PARTIAL, _PARTIAL_TINY))
