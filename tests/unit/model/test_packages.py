"""Weights from Python packages: downloaded by pip, verified file by file, whole in the hub's cache or not at all."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import constants

from mtl.base.errors import ModelError
from mtl.model import hub, packages
from mtl.model.packages import PackagedModel
from mtl.model.sources import BackboneSpec, locate

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "acme/tiny-sentences"
REVISION = "0123456789abcdef0123456789abcdef01234567"
PARTS = ("tiny-sentences-part-001", "tiny-sentences-part-002")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty; the hub is not asked."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that takes the place of the package index for pip."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def model(tiny_folder: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    """A model that two packages of the index carry, and that `packages` knows."""
    archive = tmp_path / "tiny.zip"
    with zipfile.ZipFile(archive, "w") as content:
        for path in sorted(tiny_folder.rglob("*")):
            content.write(path, f"tiny/{path.relative_to(tiny_folder).as_posix()}")
    whole = archive.read_bytes()
    parts = (whole[: len(whole) // 2], whole[len(whole) // 2 :])
    for number, (package, part) in enumerate(zip(PARTS, parts, strict=True), start=1):
        _write_wheel(index, package, {f"{package}/input/tiny.zip.{number:03}": part})
    files = {path.relative_to(tiny_folder).as_posix(): path for path in tiny_folder.rglob("*") if path.is_file()}
    described = PackagedModel(
        revision=REVISION,
        packages={package: _sha256(part) for package, part in zip(PARTS, parts, strict=True)},
        version="0.0.1",
        megabytes=1,
        files={
            path: (file.stat().st_size, _sha256(file.read_bytes()))
            for path, file in sorted(files.items(), key=lambda item: item[0] == "model.safetensors")
        },
    )
    monkeypatch.setitem(packages.PACKAGED, NAME, described)
    return described


def _write_wheel(index: Path, package: str, files: Mapping[str, bytes]) -> None:
    name = package.replace("-", "_")
    info = f"{name}-0.0.1.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.0.1\nRequires-Dist: no-such-dependency\n"
    with zipfile.ZipFile(index / f"{name}-0.0.1-py3-none-any.whl", "w") as wheel:
        for path, content in {
            f"{name}/__init__.py": b"",
            **files,
            f"{info}/METADATA": metadata.encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        }.items():
            wheel.writestr(path, content)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")


@pytest.mark.usefixtures("model")
def test_packages_serve_where_the_hub_cannot_be_asked(
    cache: Path, tiny_folder: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = locate(BackboneSpec(name=NAME))
    assert folder == cache / "models--acme--tiny-sentences" / "snapshots" / REVISION
    for path in (path.relative_to(tiny_folder) for path in tiny_folder.rglob("*") if path.is_file()):
        assert (folder / path).read_bytes() == (tiny_folder / path).read_bytes()
    assert not (cache / "models--acme--tiny-sentences" / ".partial-packages").exists()
    said = capsys.readouterr().err
    assert f"downloading {NAME} as 2 Python packages (1 MB) with pip into {cache}" in said
    assert "Verified 8 files: all are as published." in said
    shutil.rmtree(index)
    assert locate(BackboneSpec(name=NAME)) == folder  # from the cache: neither hub nor packages are asked again
    assert hub.fetch(NAME, "main") == folder
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("model")
def test_another_revision_is_not_what_the_packages_carry(cache: Path) -> None:
    with pytest.raises(ModelError) as caught:
        locate(BackboneSpec(name=NAME, revision="v2"))
    assert [problem.place for problem in caught.value.problems] == ["backbone.name"]
    assert not cache.exists()


@pytest.mark.usefixtures("model")
def test_both_reasons_are_named_where_both_ways_fail(cache: Path, index: Path) -> None:
    (index / "tiny_sentences_part_002-0.0.1-py3-none-any.whl").unlink()
    with pytest.raises(ModelError) as caught:
        locate(BackboneSpec(name=NAME))
    by_hub, by_pip = caught.value.problems
    assert by_hub.found == f"{NAME} is not in the cache {cache}, and HF_HUB_OFFLINE is set"
    assert "backbone=minilm" in by_hub.repair
    assert by_pip.found.startswith(f"pip could not download {NAME} as Python packages: ")
    assert "No matching distribution found for tiny-sentences-part-002==0.0.1" in by_pip.found
    assert _leftovers(cache) == []


@pytest.mark.usefixtures("model")
def test_without_pip(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ModelError) as caught:
        locate(BackboneSpec(name=NAME))
    problem = caught.value.problems[-1]
    assert problem.found == f"{sys.executable} has no pip, which would download {NAME} as Python packages"
    assert problem.repair == "python -m ensurepip, or uv pip install pip"
    assert _leftovers(cache) == []


@pytest.mark.parametrize("damage", ["other content", "more content", "no part", "no zip"])
@pytest.mark.usefixtures("model")
def test_damaged_package_is_named_and_nothing_of_it_is_used(cache: Path, index: Path, damage: str) -> None:
    wheel = index / "tiny_sentences_part_002-0.0.1-py3-none-any.whl"
    path = "tiny-sentences-part-002/input/tiny.zip.002"
    with zipfile.ZipFile(wheel) as content:
        part = content.read(path)
    files = {
        "other content": {path: part[:-1] + b"?"},
        "more content": {path: part + bytes(2_000_000)},
        "no part": {},
        "no zip": {path: part},
    }
    _write_wheel(index, PARTS[1], files[damage])
    if damage == "no zip":
        wheel.write_bytes(wheel.read_bytes()[:-100])
    with pytest.raises(ModelError) as caught:
        locate(BackboneSpec(name=NAME))
    assert "tiny-sentences-part-002" in caught.value.problems[-1].found
    assert _leftovers(cache) == []


def test_damaged_file_is_named_and_nothing_is_used(
    cache: Path, model: PackagedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, _ = model.files["modules.json"]
    files = {**model.files, "modules.json": (size, "0" * 64)}
    other = PackagedModel(model.revision, model.packages, model.version, model.megabytes, files)
    monkeypatch.setitem(packages.PACKAGED, NAME, other)
    with pytest.raises(ModelError) as caught:
        locate(BackboneSpec(name=NAME))
    assert caught.value.problems[-1].found == (
        f"modules.json in the packages {', '.join(PARTS)} has not the expected SHA-256; nothing of it is used"
    )
    assert _leftovers(cache) == []


@pytest.mark.usefixtures("model")
def test_remains_of_a_killed_download_are_replaced(cache: Path) -> None:
    folder = cache / "models--acme--tiny-sentences"
    snapshot = folder / "snapshots" / REVISION
    for path in (folder / ".partial-packages" / "half.whl", snapshot / "config.json"):
        path.parent.mkdir(parents=True)
        path.write_text("half", encoding="utf-8")
    assert locate(BackboneSpec(name=NAME)) == snapshot
    assert (snapshot / "config.json").read_text(encoding="utf-8") != "half"
    assert not (folder / ".partial-packages").exists()


@pytest.mark.usefixtures("model")
def test_two_at_once_download_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads: list[str] = []
    download = packages._download

    def counted(name: str, model: PackagedModel, folder: Path, target: Path) -> None:
        downloads.append(name)
        download(name, model, folder, target)

    monkeypatch.setattr(packages, "_download", counted)
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(packages.fetch(NAME, cache))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert downloads == [NAME]
    assert len(folders) == 3
    assert len(set(folders)) == 1


def test_killed_while_it_downloads_leaves_nothing_that_looks_whole(cache: Path, tmp_path: Path) -> None:
    """A process killed in the middle of a real download by pip; the hub's cache then has no such model."""
    marker = tmp_path / "started"
    program = f"""
import sys
from pathlib import Path
from mtl.model import packages
def wait(model, workplace):
    (workplace / "half.whl").parent.mkdir(parents=True, exist_ok=True)
    (workplace / "half.whl").write_bytes(b"half")
    Path({str(marker)!r}).touch()
    import time; time.sleep(60)
packages._download = lambda *_: None
packages._unpack = wait
packages.fetch("sentence-transformers/all-mpnet-base-v2", Path({str(cache)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    while not marker.exists():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert _leftovers(cache) == ["half.whl"]
    with pytest.raises(ModelError):
        hub.fetch("sentence-transformers/all-mpnet-base-v2")


def test_the_shipped_table_is_of_mpnet() -> None:
    model = packages.PACKAGED["sentence-transformers/all-mpnet-base-v2"]
    assert list(model.files)[-1] == "model.safetensors"
    checksums = [*model.packages.values(), *(checksum for _, checksum in model.files.values())]
    assert all(len(checksum) == 64 for checksum in checksums)
