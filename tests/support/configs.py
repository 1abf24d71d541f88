"""Configurations for tests: composed from conf/ once, then changed key by key."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mtl.base.files import CONF
from mtl.config import command_line, composing
from mtl.config.fields import Config, GradualConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

GROUPS = {
    folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
    for folder in sorted(CONF.iterdir())
    if folder.is_dir() and folder.name != "tune"  # search spaces
}
"""The files of each group in conf/, those named `base` among them."""


@cache
def _composed(arguments: tuple[str, ...]) -> Any:
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("train", overrides=["backbone=tiny", *arguments]), resolve=True)


def composed(*arguments: str) -> dict[str, Any]:
    """Return what the arguments compose to on the tiny backbone, as plain values that may be changed."""
    values: dict[str, Any] = deepcopy(_composed(arguments))
    return values


def changed(changes: Mapping[str, Any], *arguments: str) -> dict[str, Any]:
    """Return what the arguments compose to, with other values at some keys (``{"trainer.max_epochs": 0}``)."""
    values = composed(*arguments)
    for key, value in changes.items():
        *path, last = key.split(".")
        section = values
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    return values


def compose_config(arguments: Sequence[str], folders: Sequence[Path] = (CONF,)) -> Config:
    """Compose a configuration as Hydra would from ``conf/`` and folders of the user's own, and check it."""
    return command_line._checked(composing.compose(arguments, composing.Source(tuple(folders), "train")))


def gradual(
    *,
    unit: Literal["epochs", "steps"] = "epochs",
    start: int = 0,
    every: int = 1,
    layers: float = 1,
    stages: dict[int, Any] | None = None,
) -> GradualConfig:
    return GradualConfig(unit, start, every, layers, stages, warmup=0)
