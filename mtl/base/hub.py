"""Ask the Hugging Face hub without waiting for a network that hangs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

PROBE_SECONDS: Final = 7.0
T = TypeVar("T")


def answer(call: Callable[[], T]) -> T:
    """Return the result of a call to the hub within `PROBE_SECONDS`, or raise what the call raises.

    A thread makes the call, because no timeout covers the name look-up of the operating system.

    Raises:
        TimeoutError: No answer in time.
    """
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put((call(), None))
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits
            answers.put((None, error))

    threading.Thread(target=ask, name="hub-probe", daemon=True).start()
    try:
        value, error = answers.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no answer within {PROBE_SECONDS:.0f} seconds") from None
    if error is not None:
        raise error
    result: T = value
    return result
