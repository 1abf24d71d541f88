"""``python -m mtl.rank <run folder>``: another process of a parallel training; `mtl.companions` starts it.

It trains with the first process, prints and writes nothing, and ends when training does, or the first process.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from mtl import cli


def main(arguments: Sequence[str]) -> None:
    """Take part in the training of the run folder ``arguments[0]``, a resumed one if ``resume`` stands behind it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a Ctrl-C for all of them: the first process ends the others

    from mtl.companions import end_with, join_as_companion
    from mtl.reevaluation import read_config
    from mtl.run import follow

    end_with(sys.stdin.buffer)
    place, connect = join_as_companion()
    folder = Path(arguments[0])
    follow(read_config(folder), folder, place, connect, resume="resume" in arguments[1:])


if __name__ == "__main__":
    cli.run(main)
