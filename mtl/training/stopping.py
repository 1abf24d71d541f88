"""SIGTERM, by which clusters and containers end a process: training stops where it can be resumed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mtl.base.errors import Terminated


class Stop:
    """Whether this process is to end.

    Outside `deferred` a SIGTERM raises `Terminated` at once; inside, the first one sets `requested` and the second one
    raises.

    Attributes:
        requested: Whether a SIGTERM is pending.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice
        self.requested = False
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
        return Terminated(f"ended by SIGTERM; {self.advice}")

    def listen(self) -> None:
        """Install the handler, also over one that was set since; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._deferred and not self.requested:
            self.requested = True
        else:
            raise self.terminated()


@contextmanager
def stopping(advice: str) -> Iterator[Stop]:
    """Handle SIGTERM inside the block."""
    stop = Stop(advice)
    before: Callable[..., Any] | int | None = signal.getsignal(signal.SIGTERM)
    stop.listen()
    try:
        yield stop
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)
