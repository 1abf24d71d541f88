"""Ask the Hugging Face hub without waiting for a network that hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Final, TypeVar

PROBE_SECONDS: Final = 7.0
T = TypeVar("T")


def answer(call: Callable[[], T]) -> T:
    """Return the result of a call to the hub within `PROBE_SECONDS`, or raise what the call raises.

    A thread makes the call, because no timeout covers the name look-up of the operating system; as a daemon, so that
    the program can end before it. No answer in time is a `TimeoutError`.
    """
    answered: Future[T] = Future()

    def ask() -> None:
        try:
            answered.set_result(call())
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits
            answered.set_exception(error)

    threading.Thread(target=ask, name="hub-probe", daemon=True).start()
    if not wait([answered], timeout=PROBE_SECONDS).done:
        raise TimeoutError(f"no answer within {PROBE_SECONDS:.0f} seconds")
    return answered.result()
