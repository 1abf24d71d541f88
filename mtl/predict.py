"""``python -m mtl.predict``: each task's label and probabilities for sentences or a file of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic.dataclasses import dataclass

from mtl.base import cli, schema
from mtl.base.errors import printable
from mtl.base.run_folder import find_model
from mtl.base.schema import Fraction, Name
from mtl.inference.arguments import FOLDER_USAGE, INPUT_USAGE, Arguments

if TYPE_CHECKING:
    from mtl.inference.models import PredictOptions
    from mtl.inference.prediction import Prediction

USAGE = f"""
usage: python -m mtl.predict model=FOLDER "a sentence" "another one"
       python -m mtl.predict model=FOLDER input=FILE output=FILE.csv
       python -m mtl.predict model=FOLDER input=FOLDER output=FOLDER
       command | python -m mtl.predict model=FOLDER input=- output=- | command

  model=FOLDER        a run folder or a saved model
  task=NAME           one of its tasks, or several: task=NAME,NAME (default: all)
{INPUT_USAGE}
  output=FILE         .csv, .jsonl or .parquet with all probabilities; - writes JSON Lines to standard output;
                      without it a table is printed
  output=FOLDER/      for every file of the input an output, or several; the same command goes on where it was stopped
  format=parquet      parquet, csv or jsonl: of the outputs in a folder
{FOLDER_USAGE}
  precision=auto      fp32, bf16, or auto: bf16 where the hardware computes it natively
  prompt_name=NAME    the model's prompt that is put before each sentence (default: that of training, if any)
  device=NAME         cpu, cuda or mps (default: the GPU if there is one)
  calibrated=true     false: the heads' own labels and probabilities, without what was fitted on validation
  coverage=0.9        adds for each text the set of labels that cannot be ruled out: of the texts of each label, at
                      least this share has it in its set
  max_risk=0.05       adds whether to abstain: among the answers at most this share is wrong
  --                  everything behind it is a sentence
"""
_UNLIMITED = 1_000_000


@dataclass(config=schema.STRICT)
class Options(Arguments):
    """The arguments."""

    task: Name | None = None
    format: Literal["parquet", "csv", "jsonl"] | None = None
    calibrated: bool = True
    coverage: Fraction | None = None
    max_risk: Fraction | None = None


def main(arguments: Sequence[str]) -> None:
    """Check the arguments, then predict."""
    options = cli.parse(Options, arguments, USAGE, rest="sentences")
    options.check("format")
    tasks = None if options.task is None else options.task.split(",")
    if options.to_folder:
        print(printable(_predict_folder(options, tasks)))
        return
    find_model(Path(options.model))  # report a wrong path before importing torch, which takes seconds

    with cli.large_imports():
        from mtl.inference.bulk import predict_lines, predict_to_file
        from mtl.inference.models import MultiTaskModel

    texts = options.texts(".csv", ".jsonl", ".parquet", to_standard=True)
    how: PredictOptions = {
        "precision": options.precision,
        "prompt_name": options.prompt_name,
        "calibrated": options.calibrated,
        "coverage": options.coverage,
        "max_risk": options.max_risk,
        "progress": True,
    }
    model = MultiTaskModel.from_pretrained(options.model, device=options.device, tasks=tasks)
    if options.output is None:
        _show(texts, model.predict(texts, **how))
    elif options.output == cli.STANDARD:
        predict_lines(model, texts, sys.stdout, **how)
    else:
        predict_to_file(model, texts, Path(options.output), **how)
        print(printable(f"{len(texts):,} sentences -> {options.output}"))


def _predict_folder(options: Options, tasks: list[str] | None) -> str:
    """Predict all files of a folder or a pattern, and return a line about it."""
    with cli.large_imports():
        from mtl.inference.bulk import load_predictor
        from mtl.inference.models import saved_model_checksum

    return options.fill_folder(
        "predict",
        load_predictor,
        saved_model_checksum,
        f".{options.format or 'parquet'}",
        tasks=tasks,
        calibrated=options.calibrated,
        coverage=options.coverage,
        max_risk=options.max_risk,
    )


def _show(texts: Sequence[str], predictions: dict[str, list[Prediction]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from mtl.base.formatting import one_line
    from mtl.base.terminal import console

    table = Table("sentence", *predictions, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for at, text in enumerate(texts):
        cells = [_cell(rows[at]) for rows in predictions.values()]
        table.add_row(*(Text(one_line(cell)) for cell in (text, *cells)))
    out = console()
    if not out.is_terminal:  # one line per row for other programs
        out.width = _UNLIMITED
    out.print(table)


def _cell(prediction: Prediction) -> str:
    """Return the label with its probability, the coarse class of a head with several stages, and how sure it is."""
    text = f"{prediction.label} {prediction.probabilities[prediction.label]:.3f}"
    if prediction.coarse is not None:
        text = f"{text} ({_cell(prediction.coarse)})"
    if prediction.label_set is not None:
        text = f"{text} {{{', '.join(prediction.label_set)}}}"
    return f"{text}, too unsure" if prediction.abstain else text


if __name__ == "__main__":
    cli.run(main)
