"""Encoding in fp32 and bf16 against sentence-transformers with its defaults: many sentences, and one in each call."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from sentence_transformers import SentenceTransformer

from mtl import SentenceEncoder
from mtl.data.tokens import tokenize
from tests.benchmarks import tool
from tests.benchmarks.corpora import sentences
from tests.benchmarks.figures import Figure, ceiling
from tests.benchmarks.flops import forward_flops
from tests.benchmarks.machine import Machine
from tests.benchmarks.timing import Timings, alternate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mtl.activations.encoding import Precision

TINY = ("--rows=48", "--rounds=1")
TARGETS = {"fp32": "≥ 1.30", "bf16": "≥ 5.00"}
CALLS = 200


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = argparse.ArgumentParser(prog="bench_encode", description=__doc__)
    options.add_argument("--rows", type=int, default=4000, help="sentences (default: %(default)s)")
    options.add_argument("--rounds", type=int, default=3, help="timed rounds (default: %(default)s)")
    tool.add_backbone(options)
    return options


def measure(options: argparse.Namespace, machine: Machine) -> list[Figure]:
    """Encode the same sentences with each."""
    texts = sentences(options.rows)
    peer = SentenceTransformer(str(tool.checkpoint(options.backbone)))
    ours = SentenceEncoder.from_pretrained(options.backbone)
    timings = alternate(
        {
            "peer": partial(peer.encode, texts, show_progress_bar=False),
            "fp32": partial(ours.encode, texts, precision="fp32"),
            "bf16": partial(ours.encode, texts, precision="bf16"),
        },
        options.rounds,
    )
    expected = np.asarray(peer.encode(texts, show_progress_bar=False))
    lengths = tokenize(texts, ours.tokenizer, ours.max_length).lengths
    work = forward_flops(ours.encoder.config, lengths)
    peers = _rate("peer", timings, texts)
    share = machine.share(work, timings.median("peer"), "fp32")
    return [
        Figure("sentence-transformers, fp32", peers, share=share, details={"seconds": timings.seconds["peer"]}),
        *(
            _figure(name, timings, machine, texts, work, _differences(ours.encode(texts, precision=name), expected))
            for name in ("fp32", "bf16")
        ),
        ceiling("encode", "bf16", timings.median("peer"), work, machine),
        *_calls(peer, ours, texts[:CALLS], options.rounds),
    ]


def _calls(peer: SentenceTransformer, ours: SentenceEncoder, texts: Sequence[str], rounds: int) -> list[Figure]:
    """Return the time of a call with one sentence."""

    def call_each(encode: Callable[[str], object]) -> None:
        for text in texts:
            encode(text)

    def prepared(precision: Precision) -> None:
        with ours.prepared(precision):
            call_each(partial(ours.encode, precision=precision))

    timings = alternate(
        {
            "sentence-transformers": partial(call_each, partial(peer.encode, show_progress_bar=False)),
            "SentenceEncoder.encode, fp32": partial(call_each, ours.encode),
            "in a block of prepared weights, fp32": partial(prepared, "fp32"),
            "in a block of prepared weights, bf16": partial(prepared, "bf16"),
        },
        rounds,
    )
    return [
        Figure(
            what=f"a call with one sentence, {name}: times the calls per second of sentence-transformers",
            measured=f"{1000 * timings.median(name) / len(texts):.1f} ms",
            ratio=timings.ratio("sentence-transformers", name),
            details={"seconds": timings.seconds[name]},
        )
        for name in timings.seconds
    ]


def _figure(
    name: str, timings: Timings, machine: Machine, texts: Sequence[str], work: float, differences: dict[str, float]
) -> Figure:
    return Figure(
        what=(
            f"SentenceEncoder.encode {name}: times the rate of sentence-transformers "
            f"(max difference {differences['max_difference']:.1e}, min cosine {differences['min_cosine']:.6f})"
        ),
        measured=_rate(name, timings, texts),
        ratio=timings.ratio("peer", name),
        share=machine.share(work, timings.median(name), name),
        target=TARGETS[name],
        details={"spread": timings.spread("peer", name), "seconds": timings.seconds[name], **differences},
    )


def _rate(name: str, timings: Timings, texts: Sequence[str]) -> str:
    return f"{len(texts) / timings.median(name):,.0f} sentences/s"


def _differences(found: NDArray[np.float32], expected: NDArray[np.float32]) -> dict[str, float]:
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = (found * expected).sum(axis=1) / norms
    return {"max_difference": float(np.abs(found - expected).max()), "min_cosine": float(cosines.min())}


if __name__ == "__main__":
    from tests.benchmarks.run import main

    main(["encode"], passed_on=True)
