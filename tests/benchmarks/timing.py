"""Timing: variants in turn on one machine, so that whatever else runs there slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Timings:
    """The seconds of every round of every variant."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Return the median seconds of a variant."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, base: str) -> float:
        """Return how many times as long as ``base`` the variant takes: the ratio of the medians."""
        return self.median(name) / self.median(base)

    def spread(self, name: str, base: str) -> tuple[float, float]:
        """Return the smallest and the largest ratio of two runs of one round."""
        pairs = zip(self.seconds[name], self.seconds[base], strict=True)
        ratios = [one / other for one, other in pairs]
        return min(ratios), max(ratios)


def seconds(action: Callable[[], object]) -> float:
    """Return how long ``action`` takes, with what it left running on a GPU."""
    synchronise()
    start = time.perf_counter()
    action()
    synchronise()
    return time.perf_counter() - start


def alternate(variants: Mapping[str, Callable[[], object]], rounds: int, warmups: int = 1) -> Timings:
    """Run all variants in turn, ``rounds`` times, each round in the other direction than the one before.

    Args:
        variants: What to time, by name.
        rounds: Timed runs of each variant.
        warmups: Runs of each variant beforehand that do not count.
    """
    for action in variants.values():
        for _ in range(warmups):
            action()
    found: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        names = list(variants) if number % 2 == 0 else list(variants)[::-1]
        for name in names:
            found[name].append(seconds(variants[name]))
    return Timings(found)


def synchronise() -> None:
    """Wait for what the GPU is still doing."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
