"""Runs benchmarks and shows one table: `python -m tests.benchmarks.run encode train`, or all without a name."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import Protocol, cast

from transformers.utils import logging as transformers_logging

from tests.benchmarks.figures import ROOT, Figure, save, show
from tests.benchmarks.machine import Machine, measure_machine

NAMES = ("startup", "encode", "train", "frozen", "lower_layers", "mpnet", "scale", "serve", "processes")


class Benchmark(Protocol):
    """What a file `bench_<name>.py` offers."""

    __doc__: str | None
    TINY: tuple[str, ...]
    """Options for a run that only shows that it works."""

    def parser(self) -> argparse.ArgumentParser:
        """Return its options."""

    def measure(self, options: argparse.Namespace, machine: Machine) -> list[Figure]:
        """Return its figures; ``machine`` has the matrix rates of right before."""


def main(arguments: Sequence[str], passed_on: bool = False) -> None:
    """Run the benchmarks named in ``arguments`` and write the file of figures.

    Args:
        arguments: Names and flags.
        passed_on: Whether the options of the one benchmark are on the command line, because its file was started.
    """
    options = _parser().parse_args(arguments)
    _quiet()
    figures: list[Figure] = []
    machine = measure_machine()
    print(machine, flush=True)
    try:
        for name in options.names or NAMES:
            benchmark = cast(Benchmark, importlib.import_module(f"tests.benchmarks.bench_{name}"))
            flags = sys.argv[1:] if passed_on else _flags(name, benchmark, options)
            print(f"\n{benchmark.__doc__}", flush=True)
            machine = measure_machine()
            found = benchmark.measure(benchmark.parser().parse_args(flags), machine)
            show(name, found)
            figures += found
        print()
        show("all", figures) if len(options.names) != 1 else None
    finally:  # the figures of those before one that failed are kept
        print(f"\n{machine}\nwritten to {save(machine, figures).relative_to(ROOT)}")


def _flags(name: str, benchmark: Benchmark, options: argparse.Namespace) -> list[str]:
    full = ["--full"] if options.full and name == "train" else []
    return [*(benchmark.TINY if options.tiny else ()), *full]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)}; default: all")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes: does everything work?")
    parser.add_argument("--full", action="store_true", help="train: all rows, 3 epochs, 3 seeds; takes an hour")
    return parser


def _quiet() -> None:
    """Keep warnings and Lightning's own lines out of the table."""
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in ("lightning.pytorch", "mtl"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    main(sys.argv[1:])
