"""``python -m mtl.evaluate``: the scores of a saved model on its run's data or on a labelled file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from mtl.base import cli, schema
from mtl.base.errors import ConfigError, Problem
from mtl.base.files import obstacle
from mtl.base.schema import Name

USAGE = """
usage: python -m mtl.evaluate run=FOLDER
       python -m mtl.evaluate run=FOLDER input=FILE task=TASK

  run=FOLDER          a run folder; with input= also a saved model
  split=all           val, test, or all: which of the run's own splits
  input=FILE          a labelled file instead: CSV, TSV, JSON Lines or Parquet
  task=TASK           whose labels the file has (not needed if the model has one task)
  text_column=NAME    its column of sentences (default: text)
  label_column=NAME   its column of labels (default: label)
  output=FOLDER       also write metrics.json and the predictions there
  precision=auto      fp32, bf16, or auto: bf16 where the hardware computes it natively
  device=NAME         cpu, cuda or mps (default: the GPU if there is one)
  calibrated=true     false: the heads' own labels and probabilities, without what was fitted on validation
"""


@dataclass(config=schema.STRICT)
class Options:
    """The arguments."""

    run: Name
    split: Literal["val", "test", "all"] = "all"
    input: Name | None = None
    task: Name | None = None
    text_column: Name = "text"
    label_column: Name = "label"
    output: Name | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["cpu", "cuda", "mps"] | None = None
    calibrated: bool = True


def main(arguments: Sequence[str]) -> None:
    """Check the arguments, then evaluate and print the tables."""
    options = cli.parse(Options, arguments, USAGE)
    _check_together(options)

    from mtl.base.terminal import console
    from mtl.evaluation.scoring import reports_of
    from mtl.training.reevaluate import evaluate_file, evaluate_run, write_scored
    from mtl.training.results import score_tables

    if options.input is not None:
        scored = evaluate_file(
            options.run,
            options.input,
            options.task,
            text_column=options.text_column,
            label_column=options.label_column,
            precision=options.precision,
            device=options.device,
            calibrated=options.calibrated,
        )
    else:
        scored = evaluate_run(
            options.run,
            options.split,
            precision=options.precision,
            device=options.device,
            calibrated=options.calibrated,
        )
    reports = reports_of(scored)
    out = console()
    for number, table in enumerate(score_tables(reports, reports)):
        if number:
            out.print()
        out.print(table)
    if options.output is not None:
        write_scored(options.output, scored)
        out.print(f"\nwritten to {options.output}", markup=False)


def _check_together(options: Options) -> None:
    """Refuse options without effect, a column that is both text and label, and an unusable output folder."""
    idle = ["split"] if options.input is not None else ["task", "text_column", "label_column"]
    expected = "only without input=" if options.input is not None else "only with input="
    problems = [
        Problem(name, repr(getattr(options, name)), expected)
        for name in idle
        if getattr(options, name) != getattr(Options, name)
    ]
    if options.text_column == options.label_column:
        problems.append(Problem("label_column", repr(options.label_column), "another column than text_column"))
    reason = obstacle(Path(options.output)) if options.output is not None else ""
    if reason:
        problems.append(Problem("output", f"{options.output}, and {reason}", "a folder that can be made"))
    if problems:
        raise ConfigError(problems)


if __name__ == "__main__":
    cli.run(main)
