"""The signals by which clusters and containers end a process: training stops where it can be resumed.

SIGTERM comes before a container or a preempted job is killed. SIGUSR1 and SIGUSR2 come before a time limit, where a job
asks for that: ``sbatch --signal=USR1@90``; submitit sends SIGUSR2. Lightning would answer SIGUSR1 under SLURM with a
checkpoint in the middle of a step and a requeue of its own, but leaves a signal alone that has a handler.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

from mtl.base.errors import Problem, Terminated, TrainingError
from mtl.base.run_folder import resume_command

SIGNALS: Final = tuple(number for number in signal.Signals if number.name in ("SIGTERM", "SIGUSR1", "SIGUSR2"))
"""The signals that end a training; Windows has SIGTERM only."""


def how_to_resume(folder: Path) -> str:
    """Return the advice for a run that was ended."""
    return f"to resume: {resume_command(folder)}"


class Stop:
    """Whether this process is to end.

    Outside `deferred` a signal raises `Terminated` at once; inside, the first one sets `requested` and the second one
    raises.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice
        self.requested = False  # whether a signal is pending
        self.received = signal.SIGTERM  # the last signal; SIGTERM if only another process has received one
        self._deferred = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let the block check `requested` and raise `terminated` itself."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.requested:  # it came after the last step
            raise self.terminated()

    def terminated(self) -> Terminated:
        """Return the exception that ends the process."""
        return Terminated(f"ended by {self.received.name}; {self.advice}")

    def listen(self) -> None:
        """Install the handler, also over one that was set since."""
        install(dict.fromkeys(SIGNALS, self._handle))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = signal.Signals(number)
        if self._deferred and not self.requested:
            self.requested = True
        else:
            raise self.terminated()


@contextmanager
def stopping(folder: Path) -> Iterator[Stop]:
    """Handle `SIGNALS` inside the block, which trains in a run folder.

    A signal that has ended the block goes on to the handler that was there before, such as that of a launcher, which
    puts the job back into its queue.

    Raises:
        Terminated: A signal was received.
        TrainingError: The launcher does not put the job back into its queue.
    """
    stop = Stop(how_to_resume(folder))
    before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    stop.listen()
    try:
        yield stop
    except Terminated:
        install(before)
        if callable(handler := before[stop.received]):
            try:
                handler(stop.received, None)
            except Exception as error:  # noqa: BLE001 - any launcher's
                found = f"the job was ended by {stop.received.name}, and {' '.join(str(error).split())}"
                raise TrainingError(Problem("launcher", found, "enough time for the job", stop.advice)) from None
        raise
    finally:
        install(before)


def install(handlers: Mapping[signal.Signals, Any]) -> None:
    """Install handlers of signals, which only the main thread can."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if handler is not None:  # one that was not installed from Python
                signal.signal(number, handler)
