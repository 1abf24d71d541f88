"""``python -m mtl.encode``: embeddings of sentences or a file of them, as a NumPy file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic.dataclasses import dataclass

from mtl.base import cli, schema
from mtl.base.errors import ModelError, printable
from mtl.base.run_folder import find_model
from mtl.inference.arguments import FOLDER_USAGE, INPUT_USAGE, Arguments
from mtl.model.sources import backbone_spec

if TYPE_CHECKING:
    from mtl.inference.models import EncodeOptions

USAGE = f"""
usage: python -m mtl.encode model=MODEL input=FILE output=FILE.npy
       python -m mtl.encode model=MODEL input=FOLDER output=FOLDER
       python -m mtl.encode model=MODEL "a sentence"

  model=MODEL         a backbone (minilm, mpnet), a run folder, a saved model, a folder in the hub's layout, or a hub id
{INPUT_USAGE}
  output=FILE.npy     float32, one row per sentence
  output=FOLDER/      for every file of the input such a file, or several; the same command goes on where it was stopped
{FOLDER_USAGE}
  precision=fp32      fp32, bf16, or auto: bf16 where the hardware computes it natively
  prompt_name=NAME    the model's prompt that is put before each sentence (default: the one that the model names)
  device=NAME         cpu, cuda or mps (default: the GPU if there is one)
  --                  everything behind it is a sentence
"""


@dataclass(config=schema.STRICT)
class Options(Arguments):
    """The arguments."""

    precision: Literal["auto", "fp32", "bf16"] = "fp32"


def main(arguments: Sequence[str]) -> None:
    """Check the arguments, then encode, and print the shape and the first values."""
    options = cli.parse(Options, arguments, USAGE, rest="sentences")
    options.check()
    if options.to_folder:
        with cli.large_imports():
            from mtl.inference.bulk import load_encoder
            from mtl.inference.models import encoder_checksum

        print(printable(options.fill_folder("encode", load_encoder, encoder_checksum, ".npy")))
        return
    try:  # report a wrong name before importing torch, which takes seconds
        find_model(Path(options.model))
    except ModelError:
        backbone_spec(options.model)

    with cli.large_imports():
        from mtl.inference.bulk import encode_to_file
        from mtl.inference.models import SentenceEncoder

    texts = options.texts(".npy")
    how: EncodeOptions = {"precision": options.precision, "prompt_name": options.prompt_name, "progress": True}
    encoder = SentenceEncoder.from_pretrained(options.model, device=options.device)
    if options.output is None:
        embeddings = encoder.encode(texts, **how)
    else:
        embeddings = encode_to_file(encoder, texts, Path(options.output), **how)
        print(printable(f"{len(texts):,} sentences -> {options.output}"))
    first = ", ".join(f"{value:.4f}" for value in (embeddings[0, :5] if len(embeddings) else ()))
    print(f"shape {embeddings.shape}, float32, first row: [{first}, …]")


if __name__ == "__main__":
    cli.run(main)
