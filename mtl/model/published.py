"""Saved models on the Hugging Face hub: upload what the manifest lists, download that and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, TypeVar

from mtl.base import hub
from mtl.base.errors import ConfigError, ModelError, Problem, listed
from mtl.base.run_folder import MANIFEST
from mtl.model.hub import endpoint
from mtl.model.layout import stays_inside
from mtl.model.saved import CARD, Manifest, read_manifest, verify_model

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_log = logging.getLogger(__name__)
_KINDS: Final = (".json", ".safetensors", ".txt", ".model", ".jinja", ".md")
"""What a saved model is made of: weights, settings, tokenizers and a card; nothing that can run."""
T = TypeVar("T")


def is_hub_name(name: str) -> bool:
    """Whether a text that names no model here may be a model id, ``owner/name``; a path into a folder is none."""
    owner, slash, model = name.partition("/")
    plain = bool(slash and owner and model) and "/" not in model and not name.startswith((".", "~"))
    return plain and not Path(owner).is_dir()


def upload(
    folder: Path, name: str, *, private: bool | None, token: str | bool | None, revision: str | None, message: str
) -> str:
    """Verify and publish a saved model in one commit, and return its address; see `MultiTaskModel.push_to_hub`."""
    from huggingface_hub import CommitOperationAdd, HfApi

    _check_name(name)
    listed_files = verify_model(folder, card=False).files
    files = [MANIFEST, *(file for file in listed_files if file != CARD or (folder / file).is_file())]
    _check_kinds(str(folder / MANIFEST), files)
    api = HfApi(endpoint=endpoint(), token=token)

    def publish() -> str:
        api.create_repo(name, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        additions = [CommitOperationAdd(file, folder / file) for file in files]
        return str(api.create_commit(name, additions, commit_message=message, revision=revision).commit_url)

    return _asked(publish, name, revision, "upload to")


def download(name: str, *, token: str | bool | None, revision: str | None) -> Path:
    """Return the folder of a published model in the hub's local cache, its checksums verified.

    Of the repository only ``mtl.json`` and the files that it lists are fetched, the card left out: nothing loads it,
    and authors edit it on the hub. Where the hub cannot be reached, or with ``HF_HUB_OFFLINE``, the cached model is
    taken.

    Raises:
        ModelError: There is no such model, neither on the hub nor in the cache, mtl has not saved it, or it is damaged.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download

    _check_name(name)
    api = HfApi(endpoint=endpoint(), token=token)
    offline = constants.HF_HUB_OFFLINE or not _answers(api, name, revision)

    def fetch(file: str, commit: str | None) -> Path:
        ask = partial(
            hf_hub_download, name, file, revision=commit, token=token, endpoint=endpoint(), local_files_only=offline
        )
        return Path(str(_asked(ask, name, revision, "download from")))

    folder = fetch(MANIFEST, revision).parent  # of the commit that the revision stands for now
    for file in _files(read_manifest(folder), folder):
        fetch(file, folder.name)
    verify_model(folder, card=False)
    return folder


def _answers(api: HfApi, name: str, revision: str | None) -> bool:
    """Whether the hub can be reached; raise an error if it can and does not have the model."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        hub.answer(lambda: api.model_info(name, revision=revision, timeout=hub.PROBE_SECONDS - 1))
    except HfHubHTTPError as error:
        raise ModelError(_refusal(error, name, revision, "download from")) from error
    except Exception as error:  # noqa: BLE001 - of a network each library raises what it likes
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        _log.warning("%s cannot be reached (%s): taking %s from the cache", endpoint(), reason, name)
        return False
    return True


def _files(manifest: Manifest, folder: Path) -> list[str]:
    """Return the files to fetch beside the manifest; refuse names that lead out of the folder, and other kinds."""
    place, files = str(folder / MANIFEST), [file for file in manifest.files if file != CARD]
    outside = [file for file in files if not stays_inside(file)]
    if outside:
        raise ModelError(Problem(place, f"the file {outside[0]!r}", "files in the model's own folder"))
    _check_kinds(place, files)
    return files


def _check_kinds(place: str, files: list[str]) -> None:
    wrong = [file for file in files if PurePosixPath(file).suffix not in _KINDS or "\\" in file]
    if wrong:
        expected = f"files that end in {listed(_KINDS)}: nothing that could run code"
        raise ModelError(Problem(place, f"the files {listed(map(repr, wrong))}", expected, "take another model"))


def _check_name(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # public, not in its __all__

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(Problem("name", f"{name!r}: {error}", "a model's id on the hub, owner/name")) from None


def _asked(call: Callable[[], T], name: str, revision: str | None, doing: str) -> T:
    """Return what a call of the hub's client returns; its errors become `ModelError`s."""
    try:
        return call()
    except Exception as error:  # the client, its transport and the file system raise errors of their own
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ModelError(_refusal(error, name, revision, doing)) from error


def _refusal(error: Exception, name: str, revision: str | None, doing: str) -> Problem:
    """Turn an error of the hub's client into what the user can do about it."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{endpoint()}/{name}"
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    problem = Problem("model", f"the {doing.split()[0]} failed: {reason}", f"a hub that can be reached at {endpoint()}")
    if isinstance(error, LocalEntryNotFoundError):
        repair = "load it once on a machine with access to the hub and the same cache, or copy the model's folder"
        return Problem("model", f"{name} is not in the cache, and the hub cannot be reached", "the whole model", repair)
    if isinstance(error, RevisionNotFoundError):
        return Problem("revision", f"{name} has no revision {revision!r}", f"a branch, a tag or a commit of {where}")
    if isinstance(error, RepositoryNotFoundError):
        found = f"no folder {name}, and {endpoint()} shows no such model: there is none, or it is private or gated"
        repair = "check the spelling; for a private or gated model run `hf auth login` first, or pass a token"
        return Problem("model", found, "a run folder, a saved model, or a model on the hub that you may use", repair)
    if isinstance(error, EntryNotFoundError):
        found = f"{where} has no {MANIFEST}, or lacks a file that it lists"
        return Problem("model", found, "a model that push_to_hub of mtl has published")
    if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
        repair = "run `hf auth login` with a token that may write, or pass token="
        return replace(problem, expected=f"an account that may {doing} {where}", repair=repair)
    return problem
