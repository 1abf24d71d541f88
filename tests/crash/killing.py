"""Kills of a run at random moments, and what must hold after them."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.resuming import COMMON, SCENARIOS, differences
from tests.support.runs import data

_ROOT: Final = Path(__file__).parents[2]
_ROWS: Final = {"classification": 40, "sentiment": 15}
_DEFAULTS: Final = [
    "backbone=tiny",
    "trainer=cpu",
    "trainer.precision=32-true",
    "data.batch_size=8",
    "evaluation.figures=false",
    "callbacks.progress=false",
]
SIGNALS: Final = {
    "SIGKILL": (signal.SIGKILL, {-signal.SIGKILL}),
    "SIGTERM": (signal.SIGTERM, {143, -signal.SIGTERM}),  # the latter before there is a run to save
}
"""Each signal, and the exit status of a process that it ended."""


@dataclass
class Server:
    """A running `tests.crash.server`."""

    process: subprocess.Popen[str]

    def live(
        self, arguments: list[str], folder: Path, *, kill_after: float | None = None, by: int = signal.SIGKILL
    ) -> dict[str, float]:
        """Train in a process of its own, with a cache of its own, and return how it ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        folder.mkdir(parents=True, exist_ok=True)
        order: dict[str, Any] = {
            "arguments": arguments,
            "log": str(folder / "output.txt"),
            "cache": str(folder / "cache"),
            "kill_after": kill_after,
            "signal": int(by),
        }
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer: dict[str, float] = json.loads(self.process.stdout.readline())
        return answer


@contextmanager
def server() -> Iterator[Server]:
    """Run a server inside the block."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.crash.server"]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Server(process)
        finally:
            process.terminate()


@dataclass
class Trial:
    """A run that was killed, and what came of it.

    Attributes:
        scenario: Which one.
        moments: The seconds that each of its processes lived before it was killed.
        steps: The checkpoints that the processes went on from, for a reader.
        wrong: What is not as it should be; empty if all is well.
    """

    scenario: str
    moments: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@dataclass
class Crashes:
    """Kills runs of the scenarios.

    Args:
        server: Where the processes come from.
        folder: Where everything is written.
        seed: Of the moments.
    """

    server: Server
    folder: Path
    seed: int

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - moments, not secrets
        self._unbroken: dict[str, tuple[Path, float]] = {}

    def trial(self, scenario: str, kills: int, name: str, by: str = "SIGKILL") -> Trial:
        """Kill a run ``kills`` times, let it end, and compare it with the unbroken one."""
        unbroken, seconds = self._of(scenario)
        place = self.folder / name
        run = place / "run"
        number, ended = SIGNALS[by]
        trial = Trial(scenario)
        arguments = [*self._arguments(scenario), f"hydra.run.dir={run}"]
        for _ in range(kills):
            moment = self._random.uniform(0.02, 1.0) * seconds
            answer = self.server.live(arguments, place, kill_after=moment, by=number)
            trial.moments.append(round(answer["seconds"], 3))
            if answer["status"] not in {0, *ended}:
                trial.wrong.append(f"ended with {answer['status']}, see {place / 'output.txt'}")
                return trial
            if (run / "config.yaml").exists():
                arguments = [f"resume={run}"]
        answer = self.server.live(arguments, place)
        if answer["status"] != 0:
            trial.wrong.append(f"resumed, it ended with {answer['status']}, see {place / 'output.txt'}")
            return trial
        trial.wrong += differences(run, unbroken)
        return trial

    def _arguments(self, scenario: str) -> list[str]:
        files = [
            each for task, rows in _ROWS.items() for each in data(self.folder / "data", [task], train=rows, other=8)
        ]
        return [*dict.fromkeys(files), *_DEFAULTS, *COMMON, *SCENARIOS[scenario]]

    def _of(self, scenario: str) -> tuple[Path, float]:
        """Return the folder of the scenario's unbroken run, and how long its process lived."""
        if scenario not in self._unbroken:
            place = self.folder / f"unbroken_{scenario}"
            answer = self.server.live([*self._arguments(scenario), f"hydra.run.dir={place / 'run'}"], place)
            if answer["status"] != 0:
                raise RuntimeError((place / "output.txt").read_text(encoding="utf-8"))
            self._unbroken[scenario] = place / "run", answer["seconds"]
        return self._unbroken[scenario]
