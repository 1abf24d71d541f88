"""Training in several processes of the CPU: against one process and another checkout, and what they tell each other."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from mtl.evaluation.run_metrics import read_metrics
from tests.benchmarks import processes
from tests.benchmarks.figures import ROOT, Figure
from tests.benchmarks.machine import Machine
from tests.benchmarks.timing import Timings
from tests.benchmarks.tool import UNOBSERVED

TINY = ("--rounds=1", "--backbone=tiny", "--share=0.1")


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = argparse.ArgumentParser(prog="bench_processes", description=__doc__)
    options.add_argument("--rounds", type=int, default=3, help="timed rounds (default: %(default)s)")
    options.add_argument("--backbone", default="minilm", help="encoder (default: %(default)s)")
    options.add_argument("--share", type=float, default=0.3, help="part of the training rows (default: %(default)s)")
    options.add_argument("--processes", type=int, default=2, help="processes that train (default: %(default)s)")
    options.add_argument("--against", type=Path, help="another checkout, which trains in as many processes")
    return options


def measure(options: argparse.Namespace, machine: Machine) -> list[Figure]:
    """Train in turn in several processes and in one, with the same rows in a step and a thread for each process."""
    del machine
    number = options.processes
    ours = f"{number} processes"
    variants = {ours: (ROOT, number), "one process": (ROOT, 1)}
    if options.against is not None:
        variants["the other checkout"] = (options.against, number)
    _train_seconds(*variants[ours], 32 * number, options)  # the first one reads files that the others find in memory
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for at in range(options.rounds):
        for name in list(variants) if at % 2 == 0 else list(variants)[::-1]:
            seconds[name].append(_train_seconds(*variants[name], 32 * number, options))
    timings = Timings(seconds)
    comparisons = [
        Figure(
            what=f"training in {ours} ({options.backbone}): times the speed of {base}",
            measured=f"{timings.median(ours):.1f} s against {timings.median(base):.1f} s",
            ratio=timings.ratio(base, ours),
            details={"seconds": seconds[ours], "base": seconds[base], "spread": timings.spread(base, ours)},
        )
        for base in list(variants)[1:]
    ]
    return [*comparisons, _hidden(options)]


def _hidden(options: argparse.Namespace) -> Figure:
    """Return how much of the communication of a step is hidden behind the backward pass."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={options.processes}"]
    worker = ["-m", "tests.benchmarks.communication", f"--backbone={options.backbone}"]
    done = processes.python([*launcher, *worker], {"OMP_NUM_THREADS": "1"})
    values = json.loads(next(line for line in done.output.splitlines() if line.startswith("{")))
    step, compute, averages = (values[name] for name in ("step", "compute", "averages"))
    return Figure(
        what=f"{options.processes} processes ({options.backbone}): share of communication behind the backward",
        measured=f"{step:.3f} s; alone: compute {compute:.3f} s, averages of {values['bytes'] / 2**20:.0f} MiB "
        f"{averages:.3f} s",
        ratio=1 - (step - compute) / averages,
        details=values,
    )


def _train_seconds(checkout: Path, number: int, rows: int, options: argparse.Namespace) -> float:
    """Return the seconds of training itself, without the start of the processes."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        flags = [
            f"backbone={options.backbone}",
            f"data.train_share={options.share}",
            f"data.batch_size={rows // number}",
        ]
        flags += ["trainer.accelerator=cpu", f"trainer.devices={number}", "trainer.max_epochs=1", *UNOBSERVED]
        flags += ["evaluation.figures=false", "evaluation.error_analysis=false", "retention.path=null"]
        environment = {"PYTHONPATH": str(checkout.resolve()), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
        processes.python(["-m", "mtl.train", *flags, f"hydra.run.dir={run}"], environment)
        cost = read_metrics(run / "metrics.json").cost
        assert cost.train_seconds is not None
        return cost.train_seconds


if __name__ == "__main__":
    from tests.benchmarks.run import main

    main(["processes"], passed_on=True)
