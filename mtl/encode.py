"""``python -m mtl.encode``: embeddings of sentences or a file of them, as a NumPy file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from mtl.base import cli, schema
from mtl.base.errors import ModelError, printable
from mtl.base.run_folder import find_model
from mtl.base.schema import Name
from mtl.inference.sentences import STANDARD, check_sources, sentences_of
from mtl.model.sources import backbone_spec

USAGE = """
usage: python -m mtl.encode model=MODEL input=FILE output=FILE.npy
       python -m mtl.encode model=MODEL "a sentence"

  model=MODEL         a backbone (minilm, mpnet), a run folder, a saved model, a folder in the hub's layout, or a hub id
  input=FILE          CSV, TSV, JSON Lines or Parquet with a column of sentences, or .txt with one per line
                      (blank lines are left out); - reads such lines from standard input
  text_column=NAME    that column (default: text)
  output=FILE.npy     float32, one row per sentence
  precision=fp32      fp32, bf16, or auto: bf16 where the hardware computes it natively
  prompt_name=NAME    the model's prompt that is put before each sentence (default: the one that the model names)
  device=NAME         cpu, cuda or mps (default: the GPU if there is one)
  --                  everything behind it is a sentence
"""


@dataclass(config=schema.STRICT)
class Options:
    """The arguments."""

    model: Name
    input: Name | None = None
    text_column: Name = "text"
    output: Name | None = None
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    prompt_name: Name | None = None
    device: Literal["cpu", "cuda", "mps"] | None = None
    sentences: list[str] = field(default_factory=list)


def main(arguments: Sequence[str]) -> None:
    """Check the arguments, then encode, and print the shape and the first values."""
    options = cli.parse(Options, arguments, USAGE, rest="sentences")
    check_sources(options.input, options.sentences)
    check_encoder(options.model)  # report a wrong name before importing torch, which takes seconds

    with cli.large_imports():
        from mtl.inference.bulk import check_output, encode_to_file

    source = None if options.input in (None, STANDARD) else Path(str(options.input))
    if options.output is not None:
        check_output(Path(options.output), (".npy",), source)
    texts = sentences_of(options.input, options.text_column, options.sentences)

    from mtl.inference.models import SentenceEncoder

    encoder = SentenceEncoder.from_pretrained(options.model, device=options.device)
    if options.output is None:
        embeddings = encoder.encode(
            list(texts), precision=options.precision, progress=True, prompt_name=options.prompt_name
        )
    else:
        embeddings = encode_to_file(encoder, texts, Path(options.output), options.precision, options.prompt_name)
        print(printable(f"{len(texts):,} sentences -> {options.output}"))
    first = ", ".join(f"{value:.4f}" for value in (embeddings[0, :5] if len(embeddings) else ()))
    print(f"shape {embeddings.shape}, float32, first row: [{first}, …]")


def check_encoder(name: str) -> None:
    """Check that there may be such an encoder: a run folder, a saved model, or what `backbone_spec` takes.

    Raises:
        ModelError: There is none.
    """
    try:
        find_model(Path(name))
    except ModelError:
        backbone_spec(name)


if __name__ == "__main__":
    cli.run(main)
