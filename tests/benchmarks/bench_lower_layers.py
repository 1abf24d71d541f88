"""Freezing the lower layers: the time of an epoch with `freeze=lower_layers` (the top third learns) against all."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

from tests.benchmarks import tool
from tests.benchmarks.corpora import cut, overrides, tasks
from tests.benchmarks.figures import Figure
from tests.benchmarks.machine import Machine
from tests.benchmarks.timing import Timings

TINY = ("--share=0.004", "--rounds=1", "--epochs=2")


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = argparse.ArgumentParser(prog="bench_lower_layers", description=__doc__)
    options.add_argument("--share", type=float, default=0.04, help="share of the rows (default: %(default)s)")
    options.add_argument("--epochs", type=int, default=3, help="epochs of a run (default: %(default)s)")
    options.add_argument("--rounds", type=int, default=3, help="runs of each (default: %(default)s)")
    tool.add_backbone(options)
    return options


def measure(options: argparse.Namespace, machine: Machine) -> list[Figure]:
    """Train with both in turn; the first epoch is told apart, since a cache may be filled in it."""
    del machine
    first: dict[str, list[float]] = {"lower_layers": [], "none": []}
    later: dict[str, list[float]] = {"lower_layers": [], "none": []}
    with tempfile.TemporaryDirectory() as folder:
        data = overrides(cut(tasks(), options.share, Path(folder)))
        common = [*data, f"backbone={options.backbone}", f"trainer.max_epochs={options.epochs}", *tool.UNOBSERVED]
        _epochs([*common, "freeze=none", "++trainer.limit_train_batches=2", "trainer.max_epochs=1"])
        for number in range(options.rounds):
            for freeze in list(first) if number % 2 == 0 else list(first)[::-1]:
                opening, *rest = _epochs([*common, f"freeze={freeze}"])
                first[freeze].append(opening)
                later[freeze].append(median(rest) if rest else opening)
    return [
        _figure("freeze=lower_layers, first epoch: share of the time with freeze=none", first, ""),
        _figure("freeze=lower_layers, later epochs: share of the time with freeze=none", later, "≤ 0.50"),
    ]


def _epochs(arguments: list[str]) -> list[float]:
    with tool.fresh_cache(), tool.epoch_clock() as clock:
        tool.run(arguments)
    return clock.seconds


def _figure(what: str, seconds: dict[str, list[float]], target: str) -> Figure:
    timings = Timings(seconds)
    return Figure(
        what=what,
        measured=f"{timings.median('lower_layers'):.2f} s against {timings.median('none'):.2f} s",
        ratio=timings.ratio("lower_layers", "none"),
        target=target,
        details={"seconds": seconds, "spread": timings.spread("lower_layers", "none")},
    )


if __name__ == "__main__":
    from tests.benchmarks.run import main

    main(["lower_layers"], passed_on=True)
