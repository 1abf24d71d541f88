"""A frozen backbone: what `experiment=backbone_frozen` takes against encoding each sentence once, and a second run."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

from mtl import SentenceEncoder
from mtl.activations.encoding import Precision
from tests.benchmarks import processes, tool
from tests.benchmarks.corpora import SPLITS, Task, cut, overrides, tasks
from tests.benchmarks.figures import Figure
from tests.benchmarks.machine import Machine
from tests.benchmarks.timing import Timings, seconds

TINY = ("--share=0.01", "--rounds=1")
REGULARISATION = (0.3, 1.0, 3.0, 10.0, 30.0)
"""Values of C for logistic regression, of which the validation rows choose."""
EXPERIMENT = ("experiment=backbone_frozen", "callbacks.progress=false")


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = argparse.ArgumentParser(prog="bench_frozen", description=__doc__)
    options.add_argument("--share", type=float, default=0.2, help="share of the rows (default: %(default)s)")
    options.add_argument("--rounds", type=int, default=3, help="timed rounds (default: %(default)s)")
    tool.add_backbone(options)
    return options


def measure(options: argparse.Namespace, machine: Machine) -> list[Figure]:
    """Run the experiment in this process, then twice in processes that share a cache, and the classical way."""
    del machine
    with tempfile.TemporaryDirectory() as folder:
        data = cut(tasks(), options.share, Path(folder))
        arguments = [*overrides(data), f"backbone={options.backbone}", *EXPERIMENT]
        encoder = SentenceEncoder.from_pretrained(options.backbone)
        _warm_up(encoder, options.backbone)
        timings, ours = _in_process(arguments, encoder, data, options.rounds)
        first, second = _in_processes(arguments, options.rounds)
        classical = [fit_regression(task, encoder) for task in data]
    return [
        _total(timings, ours),
        _second(first, second),
        _regression_time(timings, classical),
        *(_regression_quality(fit, ours) for fit in classical),
    ]


def _warm_up(encoder: SentenceEncoder, backbone: str) -> None:
    """Let both load what a process loads once, and the script of the report's charts be bundled, once a machine."""
    encoder.encode(["warm-up"] * 8)
    with tempfile.TemporaryDirectory() as folder, tool.fresh_cache():
        tool.run([*overrides(cut(tasks(), 0.01, Path(folder))), f"backbone={backbone}", *EXPERIMENT])


def _in_process(
    arguments: Sequence[str], encoder: SentenceEncoder, data: Sequence[Task], rounds: int
) -> tuple[Timings, tool.ToolRun]:
    """Return the times of whole runs and of encoding, in turn, each run with an empty cache, and the last run."""
    texts = list(dict.fromkeys(text for task in data for text in task.texts()))
    precision: Precision = tool.auto_precision()
    found: dict[str, list[float]] = {"run": [], "encode": []}
    for _ in range(rounds):
        found["encode"].append(seconds(partial(encoder.encode, texts, precision=precision)))
        with tool.fresh_cache():
            latest = tool.run(arguments)
        found["run"].append(latest.seconds)
    return Timings(found), latest


def _in_processes(arguments: Sequence[str], rounds: int) -> tuple[list[float], list[float]]:
    """Return the wall-clock seconds of processes with an empty cache, and of the same again with what they left."""
    first: list[float] = []
    second: list[float] = []
    for _ in range(rounds):
        with tool.fresh_cache(), tempfile.TemporaryDirectory() as runs:
            for number, times in enumerate((first, second)):
                command = ["-m", "mtl.train", *arguments, f"hydra.run.dir={runs}/{number}"]
                times.append(processes.python(command).seconds)
    return first, second


@dataclass(frozen=True, slots=True)
class Fit:
    """Logistic regression on embeddings: figures on test, and the seconds of encoding and of fitting."""

    task: str
    encoding: float
    fitting: float
    accuracy: float
    macro_f1: float


def fit_regression(task: Task, encoder: SentenceEncoder) -> Fit:
    """Encode all splits, fit on train with several C, choose by macro-F1 on validation, and count on test."""
    start = time.perf_counter()
    features = {split: encoder.encode([text for text, _ in task.rows(split)], precision="auto") for split in SPLITS}
    encoded = time.perf_counter()
    labels = {split: np.array([label for _, label in task.rows(split)]) for split in SPLITS}
    models = [LogisticRegression(C=c, max_iter=3000).fit(features["train"], labels["train"]) for c in REGULARISATION]
    model = max(
        models,
        key=lambda each: f1_score(labels["val"], each.predict(features["val"]), average="macro", zero_division=0),
    )
    fitted = time.perf_counter()
    predicted = model.predict(features["test"])
    return Fit(
        task=task.name,
        encoding=encoded - start,
        fitting=fitted - encoded,
        accuracy=float(accuracy_score(labels["test"], predicted)),
        macro_f1=float(f1_score(labels["test"], predicted, average="macro", zero_division=0)),
    )


def _total(timings: Timings, ours: tool.ToolRun) -> Figure:
    return Figure(
        what="experiment=backbone_frozen, everything: times the time of encoding each distinct sentence once",
        measured=f"{timings.median('run'):.1f} s ({ours.train_seconds:.1f} s of it training)",
        ratio=timings.ratio("run", "encode"),
        target="≤ 1.30",
        details={"seconds": timings.seconds, "spread": timings.spread("run", "encode")},
    )


def _second(first: Sequence[float], second: Sequence[float]) -> Figure:
    return Figure(
        what="the same again from the cache, a whole process: share of the first one's time",
        measured=f"{median(second):.1f} s after {median(first):.1f} s",
        ratio=median(second) / median(first),
        target="≤ 10 s",
        details={"first": first, "second": second},
    )


def _regression_time(timings: Timings, classical: Sequence[Fit]) -> Figure:
    encoding = sum(each.encoding for each in classical)
    fitting = sum(each.fitting for each in classical)
    return Figure(
        what="experiment=backbone_frozen: times the time of encoding in fp32 and scikit-learn's logistic regression",
        measured=f"{encoding:.1f} s + {fitting:.1f} s",
        ratio=timings.median("run") / (encoding + fitting),
        target="≤ 1.00",
        details={"encoding": encoding, "fitting": fitting},
    )


def _regression_quality(fit: Fit, ours: tool.ToolRun) -> Figure:
    accuracy, macro_f1 = ours.accuracy[fit.task], ours.macro_f1[fit.task]
    return Figure(
        what=f"{fit.task}, accuracy of the frozen backbone over that of logistic regression",
        measured=f"{accuracy:.3f} / {macro_f1:.3f} against {fit.accuracy:.3f} / {fit.macro_f1:.3f}",
        ratio=accuracy / fit.accuracy,
        target="≥ 0.99",
        details={"accuracy": [accuracy, fit.accuracy], "macro_f1": [macro_f1, fit.macro_f1]},
    )


if __name__ == "__main__":
    from tests.benchmarks.run import main

    main(["frozen"], passed_on=True)
