"""Compose a configuration from ``conf/``, the user's own folder and arguments, as Hydra does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import ConfigTypeError, OmegaConfBaseException
from yaml import YAMLError

from mtl.base.errors import ConfigError, Problem
from mtl.config import run_folders  # noqa: F401 - registers the resolver of conf/hydra/default.yaml


@dataclass(frozen=True, slots=True)
class Source:
    """What is composed: the folders to search, and the primary configuration."""

    folders: tuple[Path, ...]
    name: str


def compose(lines: Sequence[str], source: Source) -> DictConfig:
    """Return what the arguments of a job compose to, with Hydra's own settings under ``hydra``.

    Raises:
        ConfigError: It cannot be composed.
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
