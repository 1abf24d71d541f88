"""A folder of its own for each run and sweep, also where several start in the same second.

``${mtl.new_folder:path}`` in a configuration is ``path``, or ``path-2``, ``path-3``, … where that is taken. The folder
is made when it is asked for, so that no other process can come in between; but only within `making`, since a
configuration is also composed to be checked or shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from omegaconf import OmegaConf

_made: dict[str, str] | None = None


@contextmanager
def making() -> Iterator[Mapping[str, str]]:
    """Let the resolver make folders inside the block, and give the same one each time that it is asked for a path.

    Yields:
        The folder made for each path.
    """
    global _made
    _made = {}
    try:
        yield _made
    finally:
        _made = None


def _new_folder(path: str) -> str:
    if _made is None:
        return next(name for name in _names(path) if not Path(name).exists())
    if path not in _made:
        _made[path] = _make(path)
    return _made[path]


def _make(path: str) -> str:
    for folder in _names(path):
        try:
            Path(folder).mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("there is always another name")


def _names(path: str) -> Iterator[str]:
    yield path
    yield from (f"{path}-{number}" for number in count(2))


OmegaConf.register_new_resolver("mtl.new_folder", _new_folder, use_cache=True, replace=True)
