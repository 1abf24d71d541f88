"""A few of the kills of ``make crash-test``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.crash.killing import Crashes, Server, server
from tests.support.resuming import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SEED = 20260


@pytest.fixture(scope="module")
def ready() -> Iterator[Server]:
    with server() as started:
        yield started


@pytest.mark.slow
def test_a_killed_process_is_resumed(ready: Server, tmp_path: Path) -> None:
    trial = Crashes(ready, tmp_path, _SEED).trial("gradual", 1, "trial")
    assert trial.wrong == [], trial


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("scenario", list(SCENARIOS)[:2])
def test_processes_killed_twice_are_resumed(scenario: str, signal: str, ready: Server, tmp_path: Path) -> None:
    trial = Crashes(ready, tmp_path, _SEED).trial(scenario, 2, "trial", signal)
    assert trial.wrong == [], trial
