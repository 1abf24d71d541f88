"""Publishing: what goes to the hub comes back the same, and nothing that the manifest does not list is used."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants

from mtl import MultiTaskModel
from mtl.base.errors import ConfigError, ModelError
from mtl.model.encoder import Encoder
from mtl.model.loading import load_tokenizer
from mtl.model.published import is_hub_name
from mtl.model.saved import HeadSpec, TaskHead, build_network, save_model
from mtl.reporting.model_card import model_card
from tests.support.publishing import TOKEN, PublishingHub, publishing_hub
from tests.support.texts import TEXTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# huggingface_hub 2.4 uploads large files in a way that httpx 0.28 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")
NAME = "acme/reviews"
TASKS = {"topic": TaskHead(["price", "größe", "other"], HeadSpec("linear"), temperature=0.5)}


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model. Do not write into it."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("model") / "model"
    network = build_network(Encoder.from_folder(tiny_folder), TASKS)
    save_model(folder, network, load_tokenizer(tiny_folder), TASKS, model_card("a run", TASKS, {}))
    return folder


@pytest.fixture
def model(folder: Path) -> MultiTaskModel:
    return MultiTaskModel.from_pretrained(folder, device="cpu")


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PublishingHub]:
    """A hub that the client talks to, with an empty cache, in an empty working folder."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with publishing_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def test_a_published_model_answers_as_the_saved_one(model: MultiTaskModel, folder: Path, hub: PublishingHub) -> None:
    address = model.push_to_hub(NAME, token=TOKEN, private=False)
    assert address.startswith(f"{hub.endpoint}/{NAME}/commit/")
    published = hub.models[NAME].files()
    assert published == {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_in(folder)}
    loaded = MultiTaskModel.from_pretrained(NAME, device="cpu")
    assert loaded.labels == model.labels
    assert np.array_equal(loaded.predict_proba(TEXTS)["topic"], model.predict_proba(TEXTS)["topic"])
    assert "README.md" not in hub.downloads
    assert set(hub.downloads) == set(published) - {"README.md"}


def test_a_model_from_the_hub_can_be_published_again(model: MultiTaskModel, hub: PublishingHub) -> None:
    model.push_to_hub(NAME, token=TOKEN)
    MultiTaskModel.from_pretrained(NAME, device="cpu").push_to_hub("acme/copy", token=TOKEN)
    assert hub.models["acme/copy"].files().keys() == hub.models[NAME].files().keys() - {"README.md"}


def test_files_that_the_manifest_does_not_list_are_not_fetched(model: MultiTaskModel, hub: PublishingHub) -> None:
    model.push_to_hub(NAME, token=TOKEN)
    hub.models[NAME].files().update(
        {"modeling.py": b"raise SystemExit", "pytorch_model.bin": b"x", "README.md": b"edited"}
    )
    assert MultiTaskModel.from_pretrained(NAME, device="cpu").labels == model.labels
    assert not {"modeling.py", "pytorch_model.bin", "README.md"} & set(hub.downloads)


@pytest.mark.parametrize("file", ["heads.safetensors", "model.safetensors", "config.json", "mtl.json"])
def test_a_file_that_was_changed_on_the_hub_is_refused(model: MultiTaskModel, hub: PublishingHub, file: str) -> None:
    model.push_to_hub(NAME, token=TOKEN)
    files = hub.models[NAME].files()
    files[file] = files[file].replace(b"price", b"prize") if file == "mtl.json" else files[file] + b" "
    with pytest.raises(ModelError) as caught:
        MultiTaskModel.from_pretrained(NAME)
    assert "changed or damaged" in str(caught.value)


@pytest.mark.parametrize("file", ["code.py", "weights.bin", "../outside.json", "/etc/hosts.txt"])
def test_a_manifest_that_lists_anything_else_is_refused(model: MultiTaskModel, hub: PublishingHub, file: str) -> None:
    model.push_to_hub(NAME, token=TOKEN)
    files = hub.models[NAME].files()
    manifest = json.loads(files["mtl.json"])
    files["mtl.json"] = json.dumps({**manifest, "files": {**manifest["files"], file: "0" * 64}}).encode()
    with pytest.raises(ModelError) as caught:
        MultiTaskModel.from_pretrained(NAME)
    assert repr(file) in caught.value.problems[0].found
    assert hub.downloads == ["mtl.json"]


def test_revisions(model: MultiTaskModel, tiny_folder: Path, tmp_path: Path, hub: PublishingHub) -> None:
    first = model.push_to_hub(NAME, token=TOKEN).rsplit("/", 1)[-1]
    torch.manual_seed(2)
    network = build_network(Encoder.from_folder(tiny_folder), TASKS)
    save_model(tmp_path / "other", network, load_tokenizer(tiny_folder), TASKS, model_card("another", TASKS, {}))
    other = MultiTaskModel.from_pretrained(tmp_path / "other", device="cpu")
    other.push_to_hub(NAME, token=TOKEN, revision="v2")
    assert hub.models[NAME].branches.keys() == {"main", "v2"}
    for revision, expected in ((None, model), ("v2", other), (first, model)):
        loaded = MultiTaskModel.from_pretrained(NAME, revision=revision, device="cpu")
        assert np.array_equal(loaded.predict_proba(TEXTS)["topic"], expected.predict_proba(TEXTS)["topic"])
    other.push_to_hub(NAME, token=TOKEN)
    assert np.array_equal(
        MultiTaskModel.from_pretrained(NAME, device="cpu").predict_proba(TEXTS)["topic"],
        other.predict_proba(TEXTS)["topic"],
    )
    with pytest.raises(ModelError) as caught:
        MultiTaskModel.from_pretrained(NAME, revision="v3")
    assert caught.value.problems[0].place == "revision"
    assert caught.value.problems[0].found == f"{NAME} has no revision 'v3'"


def test_a_private_model_needs_the_token(model: MultiTaskModel, hub: PublishingHub) -> None:
    model.push_to_hub(NAME, token=TOKEN, private=True)
    assert hub.models[NAME].private
    with pytest.raises(ModelError) as caught:
        MultiTaskModel.from_pretrained(NAME)
    assert "private or gated" in caught.value.problems[0].found
    assert MultiTaskModel.from_pretrained(NAME, token=TOKEN, device="cpu").labels == model.labels


def test_publishing_without_a_token_says_what_to_do(model: MultiTaskModel, hub: PublishingHub) -> None:
    with pytest.raises(ModelError) as caught:
        model.push_to_hub(NAME)
    (problem,) = caught.value.problems
    assert problem.expected == f"an account that may upload to {hub.endpoint}/{NAME}"
    assert problem.repair == "run `hf auth login` with a token that may write, or pass token="
    assert hub.models == {}


def test_a_damaged_model_is_not_published(folder: Path, tmp_path: Path, hub: PublishingHub) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    copy = MultiTaskModel.from_pretrained(tmp_path / "copy", device="cpu")
    with (tmp_path / "copy" / "heads.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(ModelError, match="changed or damaged"):
        copy.push_to_hub(NAME, token=TOKEN)
    assert hub.models == {}


def test_the_cache_serves_where_the_hub_cannot_be_reached(
    model: MultiTaskModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with publishing_hub() as other:
        monkeypatch.setenv("HF_ENDPOINT", other.endpoint)
        model.push_to_hub(NAME, token=TOKEN)
        MultiTaskModel.from_pretrained(NAME)
    assert MultiTaskModel.from_pretrained(NAME, device="cpu").labels == model.labels
    assert f"taking {NAME} from the cache" in caplog.text
    caplog.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert MultiTaskModel.from_pretrained(NAME, device="cpu").labels == model.labels
    assert caplog.text == ""
    with pytest.raises(ModelError) as caught:
        MultiTaskModel.from_pretrained("acme/never-seen")
    assert caught.value.problems[0].found == "acme/never-seen is not in the cache, and the hub cannot be reached"


def test_a_folder_comes_before_the_hub(model: MultiTaskModel, folder: Path, tmp_path: Path, hub: PublishingHub) -> None:
    model.push_to_hub(NAME, token=TOKEN)
    shutil.copytree(folder, tmp_path / "here" / NAME)
    assert MultiTaskModel.from_pretrained(NAME, device="cpu").labels == model.labels
    assert hub.downloads == []
    with pytest.raises(ConfigError, match="is no model's id on the hub"):
        MultiTaskModel.from_pretrained(NAME, revision="main")
    assert not is_hub_name("acme/mistyped")  # a path into a folder that is here
    with pytest.raises(ModelError, match="no such folder"):
        MultiTaskModel.from_pretrained("acme/mistyped")


def test_a_model_that_is_none_of_ours(hub: PublishingHub, model: MultiTaskModel) -> None:
    model.push_to_hub(NAME, token=TOKEN)
    del hub.models[NAME].files()["mtl.json"]
    with pytest.raises(ModelError) as caught:
        MultiTaskModel.from_pretrained(NAME)
    assert caught.value.problems[0].expected == "a model that push_to_hub of mtl has published"
    with pytest.raises(ModelError) as caught:
        MultiTaskModel.from_pretrained("acme/nothing")
    assert "no folder acme/nothing, and" in caught.value.problems[0].found
    with pytest.raises(ConfigError, match="a model's id on the hub, owner/name"):
        model.push_to_hub("not a name")


def test_the_card_reaches_the_hub_whole(model: MultiTaskModel, hub: PublishingHub) -> None:
    model.push_to_hub(NAME, token=TOKEN)
    card = hub.models[NAME].files()["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "sentence-transformers"
    assert "- **topic**: price, größe, other" in card


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
