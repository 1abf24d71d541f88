"""Compose a configuration from ``conf/``, the user's own folder and arguments, as Hydra does.

Each run and sweep has a folder of its own, also where several start in the same second: in a configuration
``${mtl.new_folder:path}`` is ``path``, or ``path-2``, ``path-3``, … where that is taken. The folder is made when it is
asked for, so that no other process can come in between; but only within `making_folders`, since a configuration is also
composed to be checked or shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigTypeError, OmegaConfBaseException
from yaml import YAMLError

from mtl.base.errors import ConfigError, Problem

_made: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """What is composed: the folders to search, and the primary configuration."""

    folders: tuple[Path, ...]
    name: str


def compose(lines: Sequence[str], source: Source) -> DictConfig:
    """Return what the arguments of a job compose to, with Hydra's own settings under ``hydra``.

    Raises:
        ConfigError: They do not compose.
    """
    places = [QuotedString(f"file://{folder}", Quote.single).with_quotes() for folder in source.folders[1:]]
    search = [f"hydra.searchpath=[{','.join(places)}]"] if places else []
    caller = GlobalHydra.instance().hydra  # of a program that uses Hydra itself and calls `mtl.train`
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(config_dir=str(source.folders[0]), version_base="1.3"):
            return hydra.compose(source.name, overrides=[*lines, *search], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, YAMLError, AssertionError, RecursionError) as error:
        raise ConfigError(_not_composed(error)) from None
    finally:
        GlobalHydra.instance().hydra = caller


def _not_composed(error: Exception) -> Problem:
    cause = error.__cause__
    if isinstance(cause, ConfigTypeError) and cause.full_key:
        found, expected = "a list", "keys with values"
        if cause.object_type is list:
            found, expected = expected, found
        return Problem(cause.full_key, found, expected)
    missing = getattr(error, "missing_cfg_file", None) or ""
    group, _, name = missing.rpartition("/")
    if group in ("hydra/launcher", "hydra/sweeper"):
        kind = group.partition("/")[2]
        plugin = name.removesuffix("_local").removesuffix("_slurm").replace("_", "-")  # submitit brings two
        repair = f"pip install hydra-{plugin}-{kind}, or leave it out"
        return Problem(group, f"{name!r}, which is not installed", f"basic, or a {kind} that is installed", repair)
    message = " ".join(str(error).split())
    return Problem("configuration", message, "what conf/ and the arguments can be composed of")


@contextmanager
def making_folders() -> Iterator[Mapping[str, str]]:
    """Make new folders inside the block, each once however often it is asked for; yield what was made for each path."""
    global _made
    _made = {}
    try:
        yield _made
    finally:
        _made = None


def _new_folder(path: str) -> str:
    names = (path if number == 1 else f"{path}-{number}" for number in count(1))
    if _made is None:
        return next(name for name in names if not Path(name).exists())
    if path not in _made:
        _made[path] = next(name for name in names if _is_made(name))
    return _made[path]


def _is_made(folder: str) -> bool:
    """Make a folder unless it exists; return whether it was made."""
    try:
        Path(folder).mkdir(parents=True)
    except FileExistsError:
        return False
    return True


OmegaConf.register_new_resolver("mtl.new_folder", _new_folder, use_cache=True, replace=True)
