"""MPNet: fused attention against the stock implementation, and length buckets against padded random batches."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor
from transformers import MPNetConfig, MPNetModel

from mtl import SentenceEncoder
from mtl.activations import encoding
from mtl.base.pooling import mean_pool
from mtl.data.batch import Batch, collate
from mtl.data.tokens import TokenTable, tokenize
from mtl.model.encoder import Encoder
from tests.benchmarks.corpora import sentences
from tests.benchmarks.figures import Figure
from tests.benchmarks.flops import TRAIN_FACTOR, forward_flops
from tests.benchmarks.machine import Machine, device
from tests.benchmarks.timing import alternate

TINY = ("--layers=1", "--rounds=1", "--rows=64", "--shapes", "4x16")
BATCH_SIZE = 32
Network = Callable[[Tensor, Tensor], Tensor]


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = argparse.ArgumentParser(prog="bench_mpnet", description=__doc__)
    options.add_argument("--layers", type=int, default=12, help="layers (default: %(default)s)")
    options.add_argument("--shapes", nargs="+", default=["32x24", "8x128", "2x384"], help="rows x tokens of a batch")
    options.add_argument("--rows", type=int, default=512, help="sentences for the buckets (default: %(default)s)")
    options.add_argument("--rounds", type=int, default=3, help="timed rounds (default: %(default)s)")
    return options


def measure(options: argparse.Namespace, machine: Machine) -> list[Figure]:
    """Compare on random weights: nothing here depends on what the weights are."""
    torch.manual_seed(0)
    config = MPNetConfig(num_hidden_layers=options.layers)
    stock = MPNetModel(config, add_pooling_layer=False).to(device())
    fused = Encoder(MPNetModel(config, add_pooling_layer=False)).to(device())
    fused.backbone.load_state_dict(stock.state_dict())
    shapes = [_shape(text) for text in options.shapes]
    attention = [
        _attention(stock, fused, shape, precision, mode, options.rounds, machine)
        for precision in ("fp32", "bf16")
        for shape in shapes
        for mode in MODES
    ]
    return [*attention, *(_buckets(fused, options.rows, precision, options.rounds) for precision in ("fp32", "bf16"))]


MODES = {"forward": (False, False), "step, dropout off": (True, False), "step, dropout on": (True, True)}
"""For each mode whether gradients are computed, and whether the network is in train mode."""


def _attention(
    stock: MPNetModel,
    fused: Encoder,
    shape: tuple[int, int],
    precision: str,
    mode: str,
    rounds: int,
    machine: Machine,
) -> Figure:
    backward, training = MODES[mode]
    ids, mask = _batch(shape)
    networks: dict[str, Network] = {"stock": partial(_stock_forward, stock), "fused": fused}
    stock.train(training)
    fused.train(training)
    timings = alternate(
        {name: partial(_pass, network, ids, mask, precision, backward) for name, network in networks.items()}, rounds
    )
    work = forward_flops(fused.config, mask.sum(dim=1).cpu().numpy()) * (TRAIN_FACTOR if backward else 1)
    return Figure(
        what=f"MPNet {mode}, {precision}, {shape[0]} x {shape[1]}: times the rate of the stock implementation",
        measured=f"{1e3 * timings.median('fused'):,.0f} ms",
        ratio=timings.ratio("stock", "fused"),
        share=machine.share(work, timings.median("fused"), precision),
        target="≥ 1.00",
        details={"seconds": timings.seconds, "spread": timings.spread("stock", "fused")},
    )


def _stock_forward(model: MPNetModel, ids: Tensor, mask: Tensor) -> Tensor:
    return mean_pool(model(input_ids=ids, attention_mask=mask.long()).last_hidden_state, mask)


def _pass(network: Network, ids: Tensor, mask: Tensor, precision: str, backward: bool) -> None:
    with nullcontext() if backward else torch.inference_mode():
        with _autocast(precision):
            embeddings = network(ids, mask)
        if backward:
            embeddings.square().sum().backward()  # type: ignore[no-untyped-call]


def _batch(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return random ids and a mask whose rows are from half full to full."""
    rows, longest = shape
    ids = torch.randint(5, 30_000, shape, device=device())
    lengths = torch.linspace(longest // 2, longest, rows, device=device()).round()
    return ids, torch.arange(longest, device=device()) < lengths[:, None]


def _buckets(fused: Encoder, rows: int, precision: str, rounds: int) -> Figure:
    tokenizer = SentenceEncoder.from_pretrained("minilm")
    table = tokenize(sentences(rows), tokenizer.tokenizer, tokenizer.max_length)
    loader = encoding.batches(table, encoding.Encoding(pad_id=1, batch_size=BATCH_SIZE), device())
    batches = {"bucketed": list(loader), "random": _random_batches(table)}
    fused.eval()
    timings = alternate({name: partial(_encode_all, fused, each, precision) for name, each in batches.items()}, rounds)
    padded = {name: _tokens(each) / int(table.offsets[-1]) for name, each in batches.items()}
    return Figure(
        what=(
            f"MPNet forward, {precision}, batches of similar length: times the rate of random ones "
            f"(tokens with padding {padded['bucketed']:.2f} and {padded['random']:.2f} of those without)"
        ),
        measured=f"{len(table) / timings.median('bucketed'):,.0f} sentences/s",
        ratio=timings.ratio("random", "bucketed"),
        target="≥ 1.00",
        details={
            "seconds": timings.seconds,
            "spread": timings.spread("random", "bucketed"),
            "padded": padded,
            "rows": rows,
        },
    )


def _random_batches(table: TokenTable) -> list[Batch]:
    order = np.random.default_rng(0).permutation(len(table))
    starts = range(0, len(table), BATCH_SIZE)
    return [collate({"text": order[start : start + BATCH_SIZE]}, {"text": table}, {}, 1) for start in starts]


def _encode_all(fused: Encoder, batches: Sequence[Batch], precision: str) -> None:
    for batch in batches:
        there = batch.to(device())
        assert there.ids is not None
        assert there.mask is not None
        _pass(fused, there.ids, there.mask, precision, backward=False)


def _tokens(batches: Sequence[Batch]) -> int:
    return sum(batch.ids.numel() for batch in batches if batch.ids is not None)


def _autocast(precision: str) -> AbstractContextManager[object]:
    return torch.autocast(device().type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def _shape(text: str) -> tuple[int, int]:
    rows, _, longest = text.partition("x")
    return int(rows), int(longest)


if __name__ == "__main__":
    from tests.benchmarks.run import main

    main(["mpnet"], passed_on=True)
