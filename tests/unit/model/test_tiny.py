"""The tiny model: the same everywhere, whole or not there, and able to read any text."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from mtl.base.errors import ModelError
from mtl.model.encoder import Encoder
from mtl.model.loading import load_tokenizer
from mtl.model.sources import BackboneSpec, locate
from mtl.model.tiny import VERSION, cached_tiny, write_tiny
from tests.support.texts import TEXTS, batch


def _content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_tiny(tmp_path / name, seed)
    first, same, other = (_content(tmp_path / name) for name in "abc")
    assert first == same
    assert [name for name in first if first[name] != other[name]] == ["model.safetensors"]


def test_any_text_has_tokens(tiny_folder: Path) -> None:
    ids, mask = batch(tiny_folder, 128)
    assert ids.shape == (len(TEXTS), 128)
    assert mask.sum(dim=1).min() == 2  # the empty text: start and end
    tokenizer = load_tokenizer(tiny_folder)
    assert tokenizer.tokenize("Very GOOD movies, 10/10") == [
        "very", "good", "movie", "##s", ",", "1", "##0", "/", "1", "##0",
    ]  # fmt: skip


def test_dropout_is_on_in_training(tiny_folder: Path) -> None:
    encoder = Encoder.from_folder(tiny_folder).train()
    ids, mask = batch(tiny_folder, 20)
    assert not torch.equal(encoder(ids, mask), encoder(ids, mask))


def test_cache_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTL_CACHE_DIR", str(tmp_path))
    folder = locate(BackboneSpec(random=True, name="ignored", path="ignored"))
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert locate(BackboneSpec(random=True)) == folder == tmp_path / f"tiny-{VERSION}"
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_cache_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MTL_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cached_tiny() == tmp_path / ".cache" / "mtl" / f"tiny-{VERSION}"


def test_many_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    monkeypatch.setenv("MTL_CACHE_DIR", str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: cached_tiny(), range(8)))
    assert [_content(folder) for folder in folders] == [_content(tiny_folder)]
    assert [path.name for path in tmp_path.iterdir()] == [f"tiny-{VERSION}"]


def test_interrupted_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTL_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("mtl.model.tiny._tokenizer_json", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        cached_tiny()
    assert not list(tmp_path.iterdir())


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    root = tmp_path / "file" / "cache"
    monkeypatch.setenv("MTL_CACHE_DIR", str(root))
    with pytest.raises(ModelError) as caught:
        cached_tiny()
    assert str(caught.value) == (
        "Model: 1 problem\n"
        f"  {root}\n"
        f"      found:    [Errno 20] Not a directory: '{root}'\n"
        "      expected: a folder to keep models in\n"
        "      repair:   MTL_CACHE_DIR=<folder> names another place"
    )


def test_weights_are_found_and_made_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from mtl.model.layout import layout\n"
        "from mtl.model.sources import BackboneSpec, locate\n"
        "layout(locate(BackboneSpec(random=True)))\n"
        "heavy = {'torch', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env={"MTL_CACHE_DIR": str(tmp_path)})
