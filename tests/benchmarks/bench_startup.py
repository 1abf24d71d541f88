"""Starting: how long a person waits for help, for a composed configuration, and for the message of a mistake."""

from __future__ import annotations

import argparse
from functools import partial

from tests.benchmarks import processes
from tests.benchmarks.figures import Figure
from tests.benchmarks.machine import Machine
from tests.benchmarks.timing import alternate

TINY = ("--rounds=1",)
CASES = {
    "python -m mtl.train --help": (["-m", "mtl.train", "--help"], 0),
    "python -m mtl.train --cfg job": (["-m", "mtl.train", "--cfg", "job"], 0),
    "an error in the configuration": (["-m", "mtl.train", "trainer.max_epoch=3"], 2),
}
BASE = "import torch"
TARGET = "≤ 1.00"


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = argparse.ArgumentParser(prog="bench_startup", description=__doc__)
    options.add_argument("--rounds", type=int, default=5, help="timed rounds (default: %(default)s)")
    return options


def measure(options: argparse.Namespace, machine: Machine) -> list[Figure]:
    """Start processes in turn; the yardstick is a process that imports torch and nothing else."""
    del machine
    variants = {what: partial(processes.python, arguments, expected=code) for what, (arguments, code) in CASES.items()}
    timings = alternate({**variants, BASE: partial(processes.python, ["-c", BASE])}, options.rounds)
    return [
        Figure(
            what=f"{what}: times the time of `import torch`",
            measured=f"{timings.median(what):.2f} s against {timings.median(BASE):.2f} s",
            ratio=timings.ratio(what, BASE),
            target=TARGET,
            details={"seconds": timings.seconds[what], "base": timings.seconds[BASE]},
        )
        for what in CASES
    ]


if __name__ == "__main__":
    from tests.benchmarks.run import main

    main(["startup"], passed_on=True)
