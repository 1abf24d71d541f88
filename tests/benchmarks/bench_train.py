"""Training all layers: our tool against the hand-written loop, same rows, rates, epochs and dropout."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from mtl import SentenceEncoder
from mtl.data.tokens import tokenize
from tests.benchmarks import plain_loop, tool
from tests.benchmarks.corpora import Task, cut, overrides, tasks
from tests.benchmarks.figures import Figure, ceiling
from tests.benchmarks.flops import TRAIN_FACTOR, forward_flops
from tests.benchmarks.machine import Machine

TINY = ("--share=0.004", "--rounds=1")
TARGET = "≥ 4.00"
RATES = plain_loop.Rates()
AS_THE_LOOP = ("heads.default.dropout=0", "trainer.gradient_clip_val=null")
"""The loop has the dropout of the checkpoint and no other, and does not clip."""

Outcome = tool.ToolRun | plain_loop.Outcome


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = argparse.ArgumentParser(prog="bench_train", description=__doc__)
    options.add_argument("--share", type=float, default=0.08, help="share of the rows (default: %(default)s)")
    options.add_argument("--epochs", type=int, default=1, help="passes over the longer task (default: %(default)s)")
    options.add_argument("--rounds", type=int, default=3, help="runs of each, seeds 0, 1, … (default: %(default)s)")
    options.add_argument("--peer-bf16", action="store_true", help="also the hand-written loop under bf16 autocast")
    options.add_argument("--as-it-comes", action="store_true", help="also ours with its head's dropout and clipping")
    tool.add_backbone(options)
    options.add_argument("--full", action="store_true", help="all rows, 3 epochs, 3 seeds: for quality; takes an hour")
    return options


def measure(options: argparse.Namespace, machine: Machine) -> list[Figure]:
    """Train with each in turn, a seed per round."""
    share, epochs = (1.0, 3) if options.full else (options.share, options.epochs)
    with tempfile.TemporaryDirectory() as folder, tool.fresh_cache():
        data = cut(tasks(), share, Path(folder))
        runs: dict[str, Callable[[int], Outcome]] = {
            "ours": partial(_ours, data, options.backbone, epochs, extra=AS_THE_LOOP),
            "peer": partial(_peer, data, options.backbone, epochs, False),
        }
        if options.peer_bf16:
            runs["peer, bf16"] = partial(_peer, data, options.backbone, epochs, True)
        if options.as_it_comes:
            runs["ours, as it comes"] = partial(_ours, data, options.backbone, epochs)
        _warm_up(data, options.backbone)
        found = _alternate(runs, options.rounds)
        work = TRAIN_FACTOR * _flops_per_row(data, options.backbone)
    rivals = _seconds_per_row(found["peer"])
    return [
        *(_figure(name, outcomes, rivals, work, machine) for name, outcomes in found.items()),
        ceiling("training", tool.auto_precision(), rivals, work, machine),
    ]


def _figure(name: str, outcomes: Sequence[Outcome], rivals: float, work: float, machine: Machine) -> Figure:
    precision = {"peer": "fp32", "peer, bf16": "bf16"}.get(name) or tool.auto_precision()
    seconds = _seconds_per_row(outcomes)
    return Figure(
        what=f"training, {name} ({precision}): times the rate of the hand-written loop; {_quality(outcomes)}",
        measured=f"{1 / seconds:,.0f} rows/s",
        ratio=rivals / seconds,
        share=machine.share(work, seconds, precision),
        target=TARGET if name == "ours" else "",
        details={"runs": [asdict(each) for each in outcomes]},
    )


def _seconds_per_row(outcomes: Sequence[Outcome]) -> float:
    return statistics.median(each.train_seconds / each.rows for each in outcomes)


def _alternate(runs: dict[str, Callable[[int], Outcome]], rounds: int) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {name: [] for name in runs}
    for seed in range(rounds):
        for name in list(runs) if seed % 2 == 0 else list(runs)[::-1]:
            found[name].append(runs[name](seed))
    return found


def _ours(data: Sequence[Task], backbone: str, epochs: int, seed: int, extra: Sequence[str] = ()) -> tool.ToolRun:
    return tool.run(
        [
            *overrides(data),
            f"backbone={backbone}",
            "freeze=none",
            f"learning_rates.heads={RATES.heads}",
            f"learning_rates.upper={RATES.upper}",
            f"learning_rates.lower={RATES.lower}",
            f"trainer.max_epochs={epochs}",
            f"seed={seed}",
            *tool.UNOBSERVED,
            *extra,
        ]
    )


def _peer(data: Sequence[Task], backbone: str, epochs: int, bf16: bool, seed: int) -> plain_loop.Outcome:
    folder = tool.checkpoint(backbone)
    return plain_loop.train(plain_rows(data), folder, epochs=epochs, rates=RATES, seed=seed, bf16=bf16)


def plain_rows(data: Sequence[Task]) -> dict[str, dict[str, plain_loop.Rows]]:
    """Return the rows of the tasks as the hand-written loop takes them."""
    return {task.name: {split: task.rows(split) for split in ("train", "test")} for task in data}


def _warm_up(data: Sequence[Task], backbone: str) -> None:
    _ours(data, backbone, 1, 0, ["++trainer.limit_train_batches=2"])
    plain_loop.train(plain_rows(data), tool.checkpoint(backbone), epochs=1, max_steps=2)


def _flops_per_row(data: Sequence[Task], backbone: str) -> float:
    """Return the work of a forward pass over a row: the mean over the tasks, of which each gives half of the rows."""
    encoder = SentenceEncoder.from_pretrained(backbone)
    means = []
    for task in data:
        texts = [text for text, _ in task.rows("train")]
        lengths = tokenize(texts, encoder.tokenizer, encoder.max_length).lengths
        means.append(forward_flops(encoder.encoder.config, lengths) / len(texts))
    return statistics.mean(means)


def _quality(outcomes: Sequence[Outcome]) -> str:
    return ", ".join(
        f"{task} {_spread([each.accuracy[task] for each in outcomes])} / "
        f"{_spread([each.macro_f1[task] for each in outcomes])}"
        for task in outcomes[0].accuracy
    )


def _spread(values: Sequence[float]) -> str:
    deviation = f"±{statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


if __name__ == "__main__":
    from tests.benchmarks.run import main

    main(["train"], passed_on=True)
