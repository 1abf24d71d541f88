"""``python -m mtl.encode``: embeddings of sentences or a file of them, as a NumPy file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from mtl.base import cli, schema
from mtl.base.errors import ModelError, MtlError, printable
from mtl.base.run_folder import find_model
from mtl.base.schema import Count, Name
from mtl.inference.folders import ROWS, Settings, check_unused, collected, goes_to_folder, planned
from mtl.inference.sentences import STANDARD, check_sources, sentences_of
from mtl.model.sources import backbone_spec

USAGE = """
usage: python -m mtl.encode model=MODEL input=FILE output=FILE.npy
       python -m mtl.encode model=MODEL input=FOLDER output=FOLDER
       python -m mtl.encode model=MODEL "a sentence"

  model=MODEL         a backbone (minilm, mpnet), a run folder, a saved model, a folder in the hub's layout, or a hub id
  input=FILE          CSV, TSV, JSON Lines or Parquet with a column of sentences, or .txt with one per line
                      (blank lines are left out); - reads such lines from standard input
                      a folder or a pattern ("reviews/*.csv") of such files: output= is a folder then
  text_column=NAME    that column (default: text)
  output=FILE.npy     float32, one row per sentence
  output=FOLDER/      for every file of the input such a file, or several; the same command goes on where it was stopped
  rows=65536          the most rows of an output in a folder
  processes=1         processes that work on a folder, on a GPU each if there are several
  engine=ray          on a Ray cluster; processes= is the number of models then (default: one per GPU or machine)
  shard=3/16          the third of 16 jobs that work on a folder, each on a part of its own
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
    rows: Count | None = None
    processes: Count | None = None
    shard: Name | None = None
    engine: Literal["processes", "ray"] | None = None
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    prompt_name: Name | None = None
    device: Literal["cpu", "cuda", "mps"] | None = None
    sentences: list[str] = field(default_factory=list)


def main(arguments: Sequence[str]) -> None:
    """Check the arguments, then encode, and print the shape and the first values."""
    options = cli.parse(Options, arguments, USAGE, rest="sentences")
    check_sources(options.input, options.sentences)
    if goes_to_folder(options.input, options.output):
        print(printable(_encode_folder(options)))
        return
    check_unused(rows=options.rows, processes=options.processes, shard=options.shard, engine=options.engine)
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


def _encode_folder(options: Options) -> str:
    """Encode all files of a folder or a pattern, and return a line about it."""
    with cli.large_imports():
        from mtl.inference.bulk import load_encoder
        from mtl.inference.models import encoder_checksum, settled_precision
        from mtl.inference.on_ray import engine
        from mtl.inference.workers import complete

    errors: list[MtlError] = []
    make = collected(errors, engine, options.engine)
    precision = collected(errors, settled_precision, options.precision, options.device) or "fp32"
    settings = Settings(
        "encode",
        input=str(options.input),
        model=collected(errors, encoder_checksum, options.model) or "",
        text_column=options.text_column,
        suffix=".npy",
        rows=options.rows or ROWS,
        precision=precision,
        prompt_name=options.prompt_name,
    )
    outputs, parts = planned(options.output, settings, options.shard, errors)
    load = partial(load_encoder, model=options.model, precision=precision, prompt_name=options.prompt_name)
    return complete(parts, outputs, load, device=options.device, processes=options.processes, make=make)


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
