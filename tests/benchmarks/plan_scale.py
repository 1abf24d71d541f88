"""Print throughput and cost of 1 to 64 devices, computed from what one device was measured at.

With `n` devices, `b` rows of each in a step, `r` rows/s of one device, `G` bytes of gradients, a bandwidth `W` and a
latency `L` of the slowest link, and a share `h` of the communication that is hidden behind the backward pass:

    compute    c    = b / r
    averages   a(n) = 2 (n - 1) / n * G / W + 2 (n - 1) * L        a ring: Patarasuk and Yuan, 2009
    step       t(n) = c + (1 - h) a(n)
    rows/s     n b / t(n)
    cost       n t(n) p / (n b) for a row, with p the price of a device and second

Bulk encoding has no communication: `n` devices take `rows / (n r)` seconds, and cost the same for every `n`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mtl.base import cli

DEVICES = (1, 2, 4, 8, 16, 32, 64)
HOUR = 3600


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What the model is given.

    Attributes:
        rate: Rows/s that one device trains.
        rows: Rows of a device in a step.
        gradients: Bytes of the gradients that are averaged.
        bandwidth: Bytes/s of the slowest link.
        latency: Seconds of a message over it.
        hidden: Share of the communication behind the backward pass.
        encoded: Rows/s that one device encodes.
        price: Price of a device and hour.
    """

    rate: float
    rows: int
    gradients: float
    bandwidth: float
    latency: float
    hidden: float
    encoded: float
    price: float

    def averages(self, devices: int) -> float:
        """Return the seconds in which gradients are averaged, alone."""
        moved = 2 * (devices - 1) / devices * self.gradients / self.bandwidth
        return moved + 2 * (devices - 1) * self.latency

    def step(self, devices: int) -> float:
        """Return the seconds of a training step."""
        return self.rows / self.rate + (1 - self.hidden) * self.averages(devices)


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = argparse.ArgumentParser(prog="plan_scale", description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rate", type=float, required=True, help="rows/s that one device trains")
    options.add_argument("--encoded", type=float, required=True, help="rows/s that one device encodes")
    options.add_argument("--rows", type=int, default=32, help="rows of a device in a step (default: %(default)s)")
    options.add_argument("--parameters", type=float, default=22.6e6, help="trained (default: %(default)s, MiniLM)")
    options.add_argument("--bandwidth", type=float, default=1.25e9, help="bytes/s of the slowest link")
    options.add_argument("--latency", type=float, default=50e-6, help="seconds of a message (default: %(default)s)")
    options.add_argument("--hidden", type=float, default=0.0, help="share of the communication that is hidden")
    options.add_argument("--price", type=float, default=1.0, help="of a device and hour (default: %(default)s)")
    options.add_argument("--training", type=float, default=10e6, help="rows of a training, all epochs")
    options.add_argument("--bulk", type=float, default=1e9, help="rows to encode")
    return options


def table(given: Assumptions, training: float, bulk: float) -> Iterator[str]:
    """Yield the lines of a Markdown table.

    Args:
        given: The assumptions.
        training: Rows of a training, all epochs.
        bulk: Rows to encode.
    """
    yield (
        f"| devices | step, ms | of it averages | trained rows/s | efficiency | {training:,.0f} rows trained "
        f"| cost | {bulk:,.0f} rows encoded | cost |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for devices in DEVICES:
        step = given.step(devices)
        rate = devices * given.rows / step
        hours, hours_of_bulk = training / rate / HOUR, bulk / (devices * given.encoded) / HOUR
        cells = [
            f"{devices}",
            f"{1000 * step:,.0f}",
            f"{1 - given.rows / given.rate / step:.0%}",
            f"{rate:,.0f}",
            f"{rate / devices / given.rate:.0%}",
            f"{hours:,.2f} h",
            f"{devices * hours * given.price:,.2f}",
            f"{hours_of_bulk:,.1f} h",
            f"{devices * hours_of_bulk * given.price:,.0f}",
        ]
        yield f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    options = parser().parse_args(list(arguments))
    given = Assumptions(
        rate=options.rate,
        rows=options.rows,
        gradients=4 * options.parameters,  # in fp32, as weights and optimizer are
        bandwidth=options.bandwidth,
        latency=options.latency,
        hidden=options.hidden,
        encoded=options.encoded,
        price=options.price,
    )
    print("\n".join(table(given, options.training, options.bulk)))


if __name__ == "__main__":
    cli.run(main)
