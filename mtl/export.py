"""``python -m mtl.export``: a saved model as a folder that other programs run, verified before it is kept."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pydantic.dataclasses import dataclass

from mtl.base import cli, schema
from mtl.base.errors import ConfigError, Problem, listed
from mtl.base.files import obstacle
from mtl.base.run_folder import find_model
from mtl.base.schema import Name

if TYPE_CHECKING:
    from mtl.inference.export import Exported

USAGE = """
usage: python -m mtl.export model=FOLDER output=FOLDER
       python -m mtl.export model=FOLDER format=openvino output=FOLDER

  model=FOLDER        a run folder or a saved model
  format=onnx         onnx, openvino: one graph of encoder and heads, with tokenizer, labels and an example;
                      sentence-transformers: the encoder alone, also for text-embeddings-inference
  output=FOLDER       a new or empty folder; it is written once what is in it answers as the model does
"""
_PACKAGES: Final = {
    "onnx": ("export", "onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "onnx", "onnxscript", "openvino"),
}
"""The extra of a format, and its packages."""


@dataclass(config=schema.STRICT)
class Options:
    """The arguments."""

    model: Name
    output: Name
    format: Literal["onnx", "openvino", "sentence-transformers"] = "onnx"


def main(arguments: Sequence[str]) -> None:
    """Check the arguments, then export, and print what was compared."""
    options = cli.parse(Options, arguments, USAGE)
    _check(options)
    find_model(Path(options.model))  # report a wrong path before importing torch, which takes seconds

    with cli.large_imports():
        from mtl.inference.export import export_encoder, export_graph

    model, output = Path(options.model), Path(options.output)
    if options.format == "sentence-transformers":
        _show(export_encoder(model, output))
    else:
        _show(export_graph(model, output, options.format))


def _check(options: Options) -> None:
    """Refuse an output that cannot be made, and a format whose packages are missing."""
    output, problems = Path(options.output), []
    extra, *packages = _PACKAGES.get(options.format, ("",))
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        found = f"{options.format}, without {listed(missing)}"
        problems.append(Problem("format", found, f"{listed(packages)} installed", f"pip install 'mtl[{extra}]'"))
    reason = obstacle(output)
    if not reason and output.is_dir() and any(output.iterdir()):
        reason = "it is not empty"
    if reason:
        problems.append(Problem("output", f"{output}, and {reason}", "a new or empty folder"))
    if problems:
        raise ConfigError(problems)


def _show(exported: Exported) -> None:
    from rich.table import Table
    from rich.text import Text

    from mtl.base.terminal import console

    out = console()
    table = Table(
        "compared", "other labels", "probabilities", "embeddings", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for agreement in exported.agreements:
        ties = f" ({agreement.ties} ties)" if agreement.ties else ""
        distances = (f"{value:.1e}" for value in (agreement.probability, agreement.embedding))
        table.add_row(*map(Text, (agreement.subject, f"{agreement.other_labels}{ties}", *distances)))
    out.print(table)
    for figures in exported.figures:
        scores = f"macro-F1 {figures.exported:.4f}, of the saved model {figures.ours:.4f}"
        out.print(f"{figures.task}, {figures.split}: {scores} ({figures.rows:,} rows)", soft_wrap=True)
    out.print(f"\nwritten to {exported.folder}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(main)
