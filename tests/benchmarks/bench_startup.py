"""Starting: help, a composed configuration, the message of a mistake, and the first prediction of a saved model."""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

from tests.benchmarks import processes
from tests.benchmarks.figures import Figure
from tests.benchmarks.machine import Machine
from tests.benchmarks.timing import Timings, alternate

TINY = ("--rounds=1", "--backbone=tiny")
CASES = {
    "python -m mtl.train --help": (["-m", "mtl.train", "--help"], 0),
    "python -m mtl.train --cfg job": (["-m", "mtl.train", "--cfg", "job"], 0),
    "an error in the configuration": (["-m", "mtl.train", "trainer.max_epoch=3"], 2),
}
BASE = "import torch"
PREDICT = "python -m mtl.predict model=… 'a sentence'"
LOAD = """
import sys, torch
from transformers import AutoModel, AutoTokenizer
AutoTokenizer.from_pretrained(sys.argv[1])
AutoModel.from_pretrained(sys.argv[1])
"""


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = argparse.ArgumentParser(prog="bench_startup", description=__doc__)
    options.add_argument("--rounds", type=int, default=5, help="timed rounds (default: %(default)s)")
    options.add_argument("--backbone", default="minilm", help="encoder of the saved model (default: %(default)s)")
    return options


def measure(options: argparse.Namespace, machine: Machine) -> list[Figure]:
    """Start processes in turn; the yardsticks are processes that import torch, and that load the same weights."""
    del machine
    variants = {what: partial(processes.python, arguments, expected=code) for what, (arguments, code) in CASES.items()}
    with tempfile.TemporaryDirectory() as folder:
        model = saved_model(options.backbone, Path(folder) / "model")
        variants[PREDICT] = partial(processes.python, ["-m", "mtl.predict", f"model={model}", "a sentence"])
        variants[LOAD] = partial(processes.python, ["-c", LOAD, str(model)])
        timings = alternate({**variants, BASE: partial(processes.python, ["-c", BASE])}, options.rounds)
    loading = f"importing torch and transformers and loading the weights ({options.backbone})"
    return [
        *(_figure(what, BASE, "`import torch`", "≤ 1.00", timings) for what in CASES),
        _figure(PREDICT, LOAD, loading, "≤ 1.30", timings),
    ]


def _figure(what: str, base: str, name: str, target: str, timings: Timings) -> Figure:
    return Figure(
        what=f"{what}: times the time of {name}",
        measured=f"{timings.median(what):.2f} s against {timings.median(base):.2f} s",
        ratio=timings.ratio(what, base),
        target=target,
        details={"seconds": timings.seconds[what], "base": timings.seconds[base]},
    )


def saved_model(backbone: str, folder: Path) -> Path:
    """Save a model with an untrained head in a folder."""
    from mtl.model.encoder import Encoder
    from mtl.model.loading import load_tokenizer
    from mtl.model.saved import HeadSpec, TaskHead, build_network, save_model
    from mtl.model.sources import backbone_spec, locate

    weights = locate(backbone_spec(backbone))
    tasks = {"sentiment": TaskHead(["negative", "positive"], HeadSpec("linear"))}
    save_model(folder, build_network(Encoder.from_folder(weights), tasks), load_tokenizer(weights), tasks, "")
    return folder


if __name__ == "__main__":
    from tests.benchmarks.run import main

    main(["startup"], passed_on=True)
