"""The tokenizer: nothing left over from whoever saved it, lower-casing where the layout says so, clear refusals."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from mtl.base.errors import ModelError, Problem
from mtl.model.loading import load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def own_tiny(tiny_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_folder, tmp_path / "own")


def test_saved_truncation_and_padding_are_off(minilm_folder: Path) -> None:
    backend = load_tokenizer(minilm_folder).backend_tokenizer
    assert len(backend.encode("short").ids) == 3
    assert len(backend.encode("long " * 700).ids) == 702


def test_ids_of_the_converted_tokenizer_are_those_of_bert_moved(minilm_folder: Path, mpnet_folder: Path) -> None:
    text = "Crème brûlée, 中文 🎉 unbelievably good"
    bert, mpnet = (load_tokenizer(folder)(text)["input_ids"] for folder in (minilm_folder, mpnet_folder))
    assert mpnet == [0, *(index + 4 for index in bert[1:-1]), 2]


def test_lower_casing_comes_first(own_tiny: Path) -> None:
    settings = json.loads((own_tiny / "tokenizer_config.json").read_text())
    (own_tiny / "tokenizer_config.json").write_text(json.dumps({**settings, "do_lower_case": False}))
    cased = load_tokenizer(own_tiny)("Good")["input_ids"]
    (own_tiny / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    lowered = load_tokenizer(own_tiny)
    assert lowered("GOOD")["input_ids"] == lowered("good")["input_ids"] != cased


def test_no_tokenizer(own_tiny: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (own_tiny / name).unlink()
    with pytest.raises(ModelError) as caught:
        load_tokenizer(own_tiny)
    problem = caught.value.problems[0]
    assert problem.place == str(own_tiny)
    assert problem.found.startswith("no tokenizer can be read: ")
    assert problem.expected == "tokenizer.json, or another tokenizer that transformers turns into a fast one"
    assert problem.repair == "fetch the tokenizer's files again"


def test_damaged_tokenizer(own_tiny: Path) -> None:
    (own_tiny / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="no tokenizer can be read: "):
        load_tokenizer(own_tiny)


def test_tokenizer_that_cannot_pad(own_tiny: Path) -> None:
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    (own_tiny / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError) as caught:
        load_tokenizer(own_tiny)
    assert str(caught.value).splitlines()[2:] == [
        "      found:    TokenizersBackend, without a padding token",
        "      expected: a fast tokenizer with a padding token",
    ]


def test_more_tokens_than_embeddings(own_tiny: Path) -> None:
    path = own_tiny / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "vocab_size": 10}), encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        load_tokenizer(own_tiny)
    found = f"tokens up to {config['vocab_size'] - 1}, and config.json has a vocab_size of 10"
    assert caught.value.problems == (
        Problem(str(own_tiny), found, "a token embedding for each", "fetch the folder again"),
    )
