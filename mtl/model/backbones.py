"""Backbones by name: the files of `conf/backbone`, a folder, or a model id on the hub."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import yaml

from mtl.base.errors import ModelError, Problem, did_you_mean, listed
from mtl.base.files import CONF, expanded
from mtl.model.weights import BackboneSpec


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
        return _shipped(name)
    if expanded(name).is_dir():
        return BackboneSpec(path=name)
    owner, slash, model = name.partition("/")
    if slash and owner and model and "/" not in model and not name.startswith((".", "~")):
        return BackboneSpec(name=name)
    names = backbone_names()
    expected = f"a backbone ({listed(names)}), a run folder, a folder in the hub's layout, or a hub id owner/name"
    raise ModelError(Problem("model", repr(name), expected, did_you_mean(name, names)))


def _shipped(name: str) -> BackboneSpec:
    values: dict[str, Any] = {}
    for file in ("base", name):
        values.update(yaml.safe_load((CONF / "backbone" / f"{file}.yaml").read_text(encoding="utf-8")))
    return BackboneSpec(**{each.name: values[each.name] for each in fields(BackboneSpec)})
