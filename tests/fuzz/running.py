"""Runs a target on many inputs."""

from __future__ import annotations

import io
import random
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from mtl.base.errors import MtlError
from tests.fuzz.targets import Target

SLOWEST = 30.0
"""Seconds for one input; what takes longer counts as a hang."""


@dataclass
class Tally:
    """How a target took its inputs.

    Attributes:
        worked: How many gave a result.
        refused: How many gave our own error.
        slowest: The longest time for one, in seconds.
    """

    worked: int = 0
    refused: int = 0
    slowest: float = 0.0

    @property
    def inputs(self) -> int:
        """How many there were."""
        return self.worked + self.refused


def fuzz(target: Target, inputs: int, start: int | None = None) -> Tally:
    """Call the target on inputs until there were as many, or one is a finding, which is raised in its smallest form.

    Args:
        target: It.
        inputs: How many.
        start: Seed of the inputs; another one each time by default.
    """
    tally = Tally()

    @seed(random.randrange(2**32) if start is None else start)  # noqa: S311
    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(st.data())
    def each(data: Any) -> None:
        began = time.perf_counter()
        with TemporaryDirectory() as folder, redirect_stdout(_terminal()), redirect_stderr(io.StringIO()):
            try:
                target(data.draw, Path(folder))
                tally.worked += 1
            except MtlError as error:
                _check(error)
                tally.refused += 1
        took = time.perf_counter() - began
        tally.slowest = max(tally.slowest, took)
        assert took < SLOWEST, f"took {took:.0f} s"

    each()
    return tally


def _terminal() -> io.TextIOWrapper:
    """Return a standard output as `mtl.base.cli.run` sets it up, of a terminal that knows ASCII only."""
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")


def _check(error: MtlError) -> None:
    """Check that an error says something."""
    if not error.problems:
        raise AssertionError("an error without a problem")
    for each in error.problems:
        if not (each.found and each.expected):
            raise AssertionError(f"a problem that says nothing: {error}")
