"""Scale: the memory that many short rows need beyond the model, to set training up and to encode; several processes."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.benchmarks import tool
from tests.benchmarks.corpora import write_short_rows
from tests.benchmarks.figures import Figure
from tests.benchmarks.machine import Machine
from tests.benchmarks.processes import Finished, python

TINY = ("--rows=2000",)
FEW = 1000
"""Rows of the run that stands for the model and the libraries alone."""


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = argparse.ArgumentParser(prog="bench_scale", description=__doc__)
    options.add_argument("--rows", type=int, default=50_000, help="rows; the aim is 1,000,000 (default: %(default)s)")
    options.add_argument("--backbone", default="tiny", help="backbone for all (default: %(default)s)")
    options.add_argument(
        "--processes", type=int, default=2, help="processes to compare with one (default: %(default)s)"
    )
    options.add_argument("--only-encoding", action="store_true", help="leave the setup of training out")
    return options


def measure(options: argparse.Namespace, machine: Machine) -> list[Figure]:
    """Set training up and encode, each in a process of its own, with few rows and with many; share many rows out."""
    del machine
    with tempfile.TemporaryDirectory() as name, tool.fresh_cache():
        folder = Path(name)
        few, many = folder / "few.csv", folder / "many.csv"
        write_short_rows(few, FEW)
        write_short_rows(many, options.rows)
        setups = [] if options.only_encoding else [_set_up(path, folder, options.backbone) for path in (few, many)]
        encodings = [_encode(path, options.backbone) for path in (few, many)]
        to_folders = [_encode(path, options.backbone, processes=1) for path in (few, many)]
        shared = _encode(many, options.backbone, processes=options.processes)
    return [
        *([_figure("training setup", setups, options.rows)] if setups else []),
        _figure("mtl.encode, file to file", encodings, options.rows),
        _figure("mtl.encode, file to folder", to_folders, options.rows),
        _speedup(to_folders[1], shared, options),
    ]


def _set_up(rows: Path, folder: Path, backbone: str) -> Finished:
    """Train for one step: all rows are read, split and tokenised, and 2 % of them predicted."""
    arguments = [
        "data=files",
        f"++data.tasks.classification.path='{rows}'",
        "data.split=[0.98,0.01,0.01]",
        f"backbone={backbone}",
        "++trainer.max_steps=1",
        f"hydra.run.dir='{folder / rows.stem}'",
        *tool.UNOBSERVED,
    ]
    return python(["-m", "mtl.train", *arguments])


def _encode(rows: Path, backbone: str, processes: int | None = None) -> Finished:
    """Encode to a file, or to a folder if a number of processes is given."""
    output = [f"output={rows.with_suffix('.npy')}"]
    if processes is not None:
        output = [f"output={rows.with_suffix('')}_{processes}/", f"processes={processes}"]
    return python(["-m", "mtl.encode", f"model={backbone}", f"input={rows}", *output])


def _speedup(alone: Finished, shared: Finished, options: argparse.Namespace) -> Figure:
    """Compare whole commands: loading the model, once in each process, is part of them."""
    rates = [options.rows / ended.seconds for ended in (alone, shared)]
    return Figure(
        what=f"mtl.encode, {options.rows:,} rows to a folder: {options.processes} processes over one",
        measured=f"{rates[1]:,.0f} and {rates[0]:,.0f} rows/s",
        ratio=rates[1] / rates[0],
        details={"seconds": [alone.seconds, shared.seconds], "rows": options.rows},
    )


def _figure(what: str, found: list[Finished], rows: int) -> Figure:
    base, whole = found
    beyond = whole.peak - base.peak
    own = whole.anonymous - base.anonymous
    return Figure(
        what=f"{what}, {rows:,} rows: peak memory beyond that for {FEW:,} rows (in brackets without mapped files)",
        measured=f"{beyond / 2**20:+,.0f} MiB ({own / 2**20:+,.0f} MiB), {whole.seconds:.0f} s",
        ratio=whole.peak / base.peak,
        target="< 2 GB",
        details={"peak": [base.peak, whole.peak], "anonymous": [base.anonymous, whole.anonymous], "rows": rows},
    )


if __name__ == "__main__":
    from tests.benchmarks.run import main

    main(["scale"], passed_on=True)
