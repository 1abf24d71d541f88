"""A few inputs of each target in every test run; `make fuzz` has thousands."""

from __future__ import annotations

import pytest

from tests.fuzz.running import fuzz
from tests.fuzz.targets import TARGETS

SHARE = 60  # of what `make fuzz` runs


@pytest.mark.parametrize("name", TARGETS)
def test_every_input_works_or_gives_our_own_error(name: str) -> None:
    target, inputs = TARGETS[name]
    tally = fuzz(target, max(5, inputs // SHARE), start=0)
    assert tally.inputs >= 5
