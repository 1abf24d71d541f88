"""The tokenizer: nothing left over from whoever saved it, lower-casing where the layout says so, clear refusals."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from mtl.base.errors import ModelError, Problem
from mtl.data.tokens import tokenize
from mtl.model.loading import load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


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


def plain(folder: Path, **changes: Any) -> None:
    """Let the folder's tokenizer be what ``tokenizer.json`` says, with some parts of it changed."""
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize("token", [999, 2**31])
def test_an_id_without_embedding_around_each_text(own_tiny: Path, token: int) -> None:
    around = {"type": "BertProcessing", "cls": ["<s>", 0], "sep": ["</s>", token]}
    plain(own_tiny, post_processor=around)
    with pytest.raises(ModelError, match=f"tokens up to {token}, and config.json has a vocab_size of "):
        load_tokenizer(own_tiny)


def replacing(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


@pytest.mark.parametrize(
    ("normalizers", "times"),
    [
        ([replacing({"String": "a"}, "aa")] * 30, "1,073,741,824"),
        ([replacing({"Regex": ""}, "x" * 999)] * 3, "1,000,000,000"),
        ([{"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "x" * 10**6}]}], "1,000,001"),
    ],
)
def test_a_normalizer_that_blows_texts_up(own_tiny: Path, normalizers: list[Any], times: str) -> None:
    plain(own_tiny, normalizer={"type": "Sequence", "normalizers": normalizers})
    with pytest.raises(ModelError) as caught:
        load_tokenizer(own_tiny)
    assert str(caught.value).splitlines()[1:4] == [
        f"  {own_tiny}/tokenizer.json",
        f"      found:    a normalizer that can make a text {times} times as long",
        "      expected: at most 65,536 times",
    ]


def test_replacements_of_real_tokenizers_are_taken(own_tiny: Path) -> None:
    spaces = [replacing({"Regex": " {2,}"}, "\u2581"), replacing({"String": "``"}, '"')] * 5
    plain(own_tiny, normalizer={"type": "Sequence", "normalizers": [*spaces, {"type": "Prepend", "prepend": "\u2581"}]})
    assert load_tokenizer(own_tiny)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"normalizer": replacing({"Regex": "(a+)+$"}, "b")}, "PanicException: "),  # retries without end
        ({"model": {"type": "Unigram", "vocab": [["b", 0.0]], "unk_id": None}}, "Exception: "),
    ],
)
def test_a_tokenizer_that_fails_on_a_text(own_tiny: Path, part: dict[str, Any], reason: str) -> None:
    plain(own_tiny, **part)
    tokenizer = load_tokenizer(own_tiny)
    with pytest.raises(ModelError) as caught:
        tokenize(["a" * 60 + " b"], tokenizer, 64)
    problem = caught.value.problems[0]
    assert problem.place == str(own_tiny)
    assert problem.found.startswith(f"the tokenizer fails: {reason}")
    assert problem.expected == "a tokenizer that takes any text"
