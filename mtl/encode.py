"""``python -m mtl.encode``: embeddings of sentences or a file of them, as a NumPy file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from mtl.base import cli, schema
from mtl.base.errors import ModelError, MtlError, printable
from mtl.base.run_folder import find_model
from mtl.inference.arguments import FOLDER_USAGE, INPUT_USAGE, Arguments
from mtl.model.sources import backbone_spec

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
        print(printable(_encode_folder(options)))
        return
    check_encoder(options.model)  # report a wrong name before importing torch, which takes seconds

    with cli.large_imports():
        from mtl.inference.bulk import encode_to_file
        from mtl.inference.models import SentenceEncoder

    texts = options.texts(".npy")
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


def _encode_folder(options: Options) -> str:
    """Encode all files of a folder or a pattern, and return a line about it."""
    with cli.large_imports():
        from mtl.inference.bulk import load_encoder
        from mtl.inference.models import encoder_checksum

    errors: list[MtlError] = []
    settings = options.settings(errors, "encode", encoder_checksum, ".npy")
    load = partial(load_encoder, model=options.model, precision=settings.precision, prompt_name=settings.prompt_name)
    return options.complete(errors, settings, load)


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
