"""``python -m mtl.diagnose``: which data to collect or to review, from the data of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from mtl.base import cli, schema
from mtl.base.errors import ConfigError, Problem
from mtl.base.files import obstacle
from mtl.base.run_folder import check
from mtl.base.schema import Count, Name

USAGE = """
usage: python -m mtl.diagnose run=FOLDER [task=TASK]

  run=FOLDER          a run folder: its data, and the encoder that it started from
  task=TASK           one task (default: all)
  output=FOLDER       where to write (default: diagnosis in the run folder)
  more=50             how many more rows of each class to estimate the gain from
  similar=0.95        least cosine of the embeddings of near-duplicates
  encoder=MODEL       another encoder: a backbone, a run, a saved model, a folder in the hub's layout, or a hub id;
                      one that was trained on these rows underestimates gains and suspects
  precision=auto      fp32, bf16, or auto: bf16 where the hardware computes it natively
  device=NAME         cpu, cuda or mps (default: the GPU if there is one)
"""


@dataclass(config=schema.STRICT)
class Options:
    """The arguments."""

    run: Name
    task: Name | None = None
    output: Name | None = None
    more: Count = 50
    similar: Annotated[float, Field(gt=0, le=1)] = 0.95
    encoder: Name | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["cpu", "cuda", "mps"] | None = None


def main(arguments: Sequence[str]) -> None:
    """Check the arguments, then diagnose, write the findings and print them."""
    options = cli.parse(Options, arguments, USAGE)
    output = Path(options.output) if options.output is not None else Path(options.run) / "diagnosis"
    reason = obstacle(output)
    if reason and options.output is not None:
        raise ConfigError(Problem("output", f"{output}, and {reason}", "a folder that can be made"))
    if options.output is None:
        check(Path(options.run), only_links=True)

    from mtl.base.formatting import one_line
    from mtl.base.terminal import console
    from mtl.diagnosis.report import sentences
    from mtl.diagnosis.run import diagnose_run

    diagnoses = diagnose_run(
        options.run,
        output,
        task=options.task,
        encoder=options.encoder,
        more=options.more,
        similar=options.similar,
        precision=options.precision,
        device=options.device,
    )
    out = console()
    for diagnosis in diagnoses:
        for sentence in sentences(diagnosis):
            out.print(f"{diagnosis.task}: {one_line(sentence)}", markup=False, soft_wrap=True)
        out.print()
    out.print(f"report   {output}/diagnosis.md", markup=False, soft_wrap=True)


if __name__ == "__main__":
    cli.run(main)
