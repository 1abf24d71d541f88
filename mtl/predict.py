"""``python -m mtl.predict``: each task's label and probabilities for sentences or a file of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic.dataclasses import dataclass

from mtl import cli, schema
from mtl.config_types import Name
from mtl.errors import ConfigError, Problem, printable

if TYPE_CHECKING:
    from mtl.inference import Prediction

USAGE = """
usage: python -m mtl.predict model=FOLDER "a sentence" "another one"
       python -m mtl.predict model=FOLDER input=FILE output=FILE.csv

  model=FOLDER        a run folder or a saved model
  input=FILE          CSV, TSV, JSON Lines or Parquet with a column of sentences, or .txt with one per line
                      (blank lines are left out)
  text_column=NAME    that column (default: text)
  output=FILE         .csv or .jsonl with all probabilities; without it a table is printed
  precision=auto      fp32, bf16, or auto: bf16 where the hardware computes it natively
  prompt_name=NAME    the model's prompt that is put before each sentence (default: that of training, if any)
  device=NAME         cpu, cuda or mps (default: the GPU if there is one)
  calibrated=true     false: the heads' own labels and probabilities, without what was fitted on validation
  --                  everything behind it is a sentence
"""


@dataclass(config=schema.STRICT)
class Options:
    """The arguments."""

    model: Name
    input: Name | None = None
    text_column: Name = "text"
    output: Name | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    prompt_name: Name | None = None
    device: Literal["cpu", "cuda", "mps"] | None = None
    calibrated: bool = True
    sentences: list[str] = field(default_factory=list)


def main(arguments: Sequence[str]) -> None:
    """Check the arguments, then predict."""
    options = cli.parse(Options, arguments, USAGE, rest="sentences")
    check_sources(options.input, options.sentences)

    from mtl.bulk import check_output, predict_to_file
    from mtl.data.examples import read_texts
    from mtl.inference import MultiTaskModel

    source = None if options.input is None else Path(options.input)
    if options.output is not None:
        check_output(Path(options.output), (".csv", ".jsonl"), source)
    texts: Sequence[str] = options.sentences
    if source is not None:
        texts = read_texts(source, options.text_column).texts
    model = MultiTaskModel.from_pretrained(options.model, device=options.device)
    if options.output is None:
        found = model.predict(
            list(texts),
            precision=options.precision,
            progress=True,
            calibrated=options.calibrated,
            prompt_name=options.prompt_name,
        )
        _show(list(texts), found)
        return
    predict_to_file(
        model,
        texts,
        Path(options.output),
        options.precision,
        calibrated=options.calibrated,
        prompt_name=options.prompt_name,
    )
    print(printable(f"{len(texts):,} sentences -> {options.output}"))


def check_sources(file: str | None, sentences: list[str]) -> None:
    """Check that there is exactly one source of sentences.

    Raises:
        ConfigError: There is none, or both, or a sentence is empty.
    """
    if (file is None) == (not sentences):
        found = "neither input= nor sentences" if file is None else "both input= and sentences"
        raise ConfigError(Problem("input", found, "a file or sentences", 'input=reviews.csv, or "a sentence"'))
    empty = [
        Problem(f"sentence {at}", repr(text), "a text") for at, text in enumerate(sentences, 1) if not text.strip()
    ]
    if empty:
        raise ConfigError(empty)


def _show(texts: list[str], predictions: dict[str, list[Prediction]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from mtl.evaluation.formatting import one_line
    from mtl.evaluation.tables import console

    table = Table("sentence", *predictions, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for at, text in enumerate(texts):
        cells = [_cell(found[at]) for found in predictions.values()]
        table.add_row(*(Text(one_line(cell)) for cell in (text, *cells)))
    console().print(table)


def _cell(found: Prediction) -> str:
    """Return the label with its probability, behind it the coarse class of a head with several stages."""
    text = f"{found.label} {found.probabilities[found.label]:.3f}"
    return text if found.coarse is None else f"{text} ({_cell(found.coarse)})"


if __name__ == "__main__":
    cli.run(main)
