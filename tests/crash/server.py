"""A process that has everything imported, and forks one that trains in an instant rather than in seconds.

It reads one JSON object per line: ``arguments`` of `mtl.train`, ``log`` (a file), ``cache`` (``MTL_CACHE_DIR``), and
``kill_after`` (seconds, or null) with ``signal``. It answers with the exit status as `os.waitstatus_to_exitcode` has it
and the seconds that the process lived.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

import mtl.train as command
from mtl.base import cli


def main() -> None:
    """Serve until the input ends."""
    for line in sys.stdin:
        print(json.dumps(_live(json.loads(line))), flush=True)


def _live(order: dict[str, Any]) -> dict[str, float]:
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _train(order)
    deadline = None if order["kill_after"] is None else start + order["kill_after"]
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        now = time.monotonic()
        if ended:
            return {"status": os.waitstatus_to_exitcode(status), "seconds": now - start}
        if deadline is not None and now >= deadline:
            os.kill(child, order["signal"])
            deadline = None
        time.sleep(0.002)


def _train(order: dict[str, Any]) -> None:
    """Train in the forked process, and end it."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ["MTL_CACHE_DIR"] = order["cache"]
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.argv = ["mtl.train", *order["arguments"]]
    code = 1
    try:
        cli.run(command.main)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
