"""Check the files in the user's own folder (``--config-dir``): what is wrong there, and what Hydra must not run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError, safe_load

from mtl.base.errors import Problem
from mtl.base.files import CONF
from mtl.config.composing import Source, compose

_GLOBAL = "# @package _global_"
_PLUGINS = ("hydra._internal.core_plugins.", "hydra_plugins.", "optuna.samplers.")


def folder_problems(folder: Path, written: str) -> Iterator[Problem]:
    """Yield what is wrong with the folder, which the user wrote as ``written``, before anything is composed of it."""
    if not folder.is_dir():
        found = "a file" if folder.exists() else f"there is no folder {folder}"
        yield Problem("--config-dir", f"{written}: {found}", "a folder with your own files, in groups as in conf/")
    for path in sorted(folder.rglob("*.yaml")):
        name = path.relative_to(folder)
        if (CONF / name).exists():
            yield Problem(str(path), f"a file that conf/ has too: conf/{name} would be taken", "a name of its own")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            yield Problem(str(path), f"not readable: {error}", "a YAML file in UTF-8")
        else:
            yield from _settings_problems(path, name, text)


def _settings_problems(path: Path, name: Path, text: str) -> Iterator[Problem]:
    with suppress(YAMLError, RecursionError):  # composing says what is no YAML
        if _has_key(safe_load(text), "searchpath"):
            found = "a search path, which can import Python packages"
            yield Problem(f"{path}: searchpath", found, "one folder of your own", "give it with --config-dir")
    siblings = [] if name.parent == Path() else list((CONF / name.parent).glob("*.yaml"))
    if siblings and all(_GLOBAL in sibling.read_text(encoding="utf-8") for sibling in siblings) and _GLOBAL not in text:
        found = f"no line `{_GLOBAL}`: its keys would stand below {name.parent}, where nothing reads them"
        yield Problem(str(path), found, f"that line, as in conf/{name.parent}", "put it before everything else")


def _has_key(content: Any, key: str) -> bool:
    if isinstance(content, Mapping):
        return any(str(name).rpartition(".")[2] == key or _has_key(value, key) for name, value in content.items())
    return isinstance(content, list) and any(_has_key(item, key) for item in content)


def code_problems(settings: DictConfig) -> Iterator[Problem]:
    """Yield what files of the user's own would have Hydra run: it calls whatever ``_target_`` names.

    They may choose folders, a launcher, a sweeper, and the parameters of these. ``settings`` are Hydra's own of a job.
    """
    usual = compose([], Source((CONF,), "train"))["hydra"]
    for key in ("callbacks", "job_logging", "hydra_logging"):
        if OmegaConf.to_container(settings[key]) != OmegaConf.to_container(usual[key]):
            found = "settings of your own, with which Hydra would call any Python function that they name"
            yield Problem(f"hydra.{key}", found, "those of conf/hydra", f"leave hydra.{key} out")
    for key in ("launcher", "sweeper"):
        for place, target in _called(OmegaConf.to_container(settings[key]), f"hydra.{key}"):
            if not target.startswith(_PLUGINS):
                expected = f"a {key} of Hydra or of a plugin of it"
                yield Problem(place, repr(target), expected, "leave it out")


def _called(values: Any, above: str) -> Iterator[tuple[str, str]]:
    """Yield the keys by which Hydra and its sweepers call a Python function, with its name."""
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if name in ("_target_", "custom_search_space") and value is not None:
            yield f"{above}.{name}", str(value)
        yield from _called(value, f"{above}.{name}")
