"""From file to file: an error in a chunk says which sentences the chunk has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mtl import SentenceEncoder
from mtl.bulk import encode_to_file
from mtl.errors import ModelError


@pytest.mark.parametrize(("chunk", "place"), [(2, "the encoder, sentences 3 to 4"), (5, "the encoder")])
def test_an_error_names_the_chunk(
    chunk: int, place: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtl.bulk.CHUNK", chunk)
    encoder = SentenceEncoder.from_pretrained(tiny_folder)
    texts = ["good", "fine", "well", "bad", "ill"]
    ids = encoder.tokenizer("bad")["input_ids"]
    others = {each for text in texts if text != "bad" for each in encoder.tokenizer(text)["input_ids"]}
    own = [each for each in ids if each not in others]
    words = encoder.encoder.backbone.get_submodule("embeddings.word_embeddings")
    assert own
    with torch.no_grad():
        words.weight[own] = float("nan")
    with pytest.raises(ModelError) as error:
        encode_to_file(encoder, texts, tmp_path / "x.npy", "fp32")
    (problem,) = error.value.problems
    assert problem.place == place
    assert not list(tmp_path.iterdir())
