"""Backbones by name: the files of `conf/backbone`, a folder, or a model id on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mtl import schema
from mtl.config import BackboneConfig
from mtl.errors import ConfigError, ModelError, Problem, did_you_mean, listed
from mtl.files import expanded
from mtl.model.weights import BackboneSpec

CONF = Path(__file__).resolve().parents[1] / "conf"
"""The configuration groups; they stand beside the package, in a checkout or an editable install."""


def backbone_names() -> list[str]:
    """Return the names of the shipped backbones."""
    return sorted(path.stem for path in (CONF / "backbone").glob("*.yaml") if path.stem != "base")


def backbone_spec(name: str) -> BackboneSpec:
    """Return where the weights of ``name`` are.

    Args:
        name: A backbone of ``conf/backbone``, a folder in the hub's layout, or a model id on the hub.

    Raises:
        ModelError: It is none of them.
    """
    if name in backbone_names():
        return spec_of(_shipped(name))
    if expanded(name).is_dir():
        return BackboneSpec(path=name)
    owner, slash, model = name.partition("/")
    if slash and owner and model and "/" not in model and not name.startswith((".", "~")):
        return BackboneSpec(name=name)
    names = backbone_names()
    expected = f"a backbone ({listed(names)}), a run folder, a folder in the hub's layout, or a hub id owner/name"
    raise ModelError(Problem("model", repr(name), expected, did_you_mean(name, names)))


def spec_of(config: BackboneConfig) -> BackboneSpec:
    """Return where the weights of a checked configuration are."""
    return BackboneSpec(
        name=config.name,
        path=config.path,
        package=config.package,
        sha256=None if config.path else config.sha256,
        revision=config.revision,
        random=config.random and not config.path,
    )


def _shipped(name: str) -> BackboneConfig:
    values: dict[str, Any] = {}
    for file in ("base", name):
        content = yaml.safe_load((CONF / "backbone" / f"{file}.yaml").read_text(encoding="utf-8"))
        values.update({key: value for key, value in content.items() if key != "defaults"})
    config, problems = schema.check(BackboneConfig, values)
    if config is None:
        raise ConfigError(problems)
    return config
