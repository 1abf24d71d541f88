"""From file to file: chunk by chunk what one call gives, whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mtl import SentenceEncoder
from mtl.base.errors import ModelError
from mtl.inference.bulk import encode_to_file
from tests.support.commands import outside


@pytest.mark.parametrize(("chunk", "place"), [(2, "the encoder, sentences 3 to 4"), (5, "the encoder")])
def test_an_error_names_the_chunk(
    chunk: int, place: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtl.inference.sentences.CHUNK", chunk)
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
        encode_to_file(encoder, texts, tmp_path / "x.npy")
    (problem,) = error.value.problems
    assert problem.place == place
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("texts", [[], ["one"], ["one", "two", "one", "three", "four"]])
def test_the_file_is_what_numpy_writes(
    texts: list[str], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtl.inference.sentences.CHUNK", 2)
    encoder = SentenceEncoder.from_pretrained(tiny_folder)
    found = encode_to_file(encoder, texts, tmp_path / "x.npy")
    assert found == pytest.approx(encoder.encode(texts), abs=1e-6)
    np.save(tmp_path / "y.npy", found)
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "y.npy").read_bytes()


FULL = """
import resource, sys
from pathlib import Path
from mtl import SentenceEncoder
from mtl.base import cli
from mtl.inference.bulk import encode_to_file

def main(arguments):
    encoder = SentenceEncoder.from_pretrained(arguments[0])
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    encode_to_file(encoder, ["good"] * 2_000, Path(arguments[1]))

cli.run(main)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of a process")
def test_what_cannot_be_written_is_named_and_nothing_is_left(tiny_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tiny_folder), str(tmp_path / "x.npy")]
    ended = subprocess.run(command, env=outside(), capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"  {tmp_path / 'x.npy'}\n      found:    File too large" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_without_a_terminal_lines_tell_which_chunk_is_worked_on(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mtl.inference.sentences.CHUNK", 2)
    monkeypatch.setattr("mtl.activations.encoding.SECONDS_BETWEEN_LINES", 0.0)
    encode_to_file(SentenceEncoder.from_pretrained(tiny_folder), ["a", "b", "c"], tmp_path / "x.npy")
    lines = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["encoding sentences 1 to 2 of 3", "encoding sentences 3 to 3 of 3"]
