"""``python -m mtl.training.rank``: a further process of a parallel training, started by `mtl.training.companions`.

It trains with the first process, prints and writes nothing, and ends when training does, or the first process.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from mtl.base import cli


def main(arguments: Sequence[str]) -> None:
    """Take part in a training.

    Args:
        arguments: The run folder, the folder through which the processes find each other, the file to touch as a sign
            of life, and ``resume`` if the run is a resumed one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a Ctrl-C for all of them: the first process ends the others
    folder, meeting, sign_of_life, *flags = arguments
    threading.Thread(target=_show_life, args=[Path(sign_of_life)], daemon=True).start()
    threading.Thread(target=_end_with, args=[sys.stdin.buffer, Path(meeting)], daemon=True).start()

    from mtl.training.companions import join_as_companion
    from mtl.training.reevaluate import read_config
    from mtl.training.run import follow

    place, connect = join_as_companion(Path(meeting))
    follow(read_config(Path(folder)), Path(folder), place, connect, resume="resume" in flags)


def _show_life(file: Path) -> None:
    """Touch a file every second as long as its folder is there."""
    with suppress(FileNotFoundError):
        while True:
            file.touch()
            time.sleep(1)


def _end_with(pipe: IO[bytes], meeting: Path) -> None:
    """End this process, and what is left of the folder in which they met, when the first process dies.

    The other end of ``pipe`` is closed then.
    """
    pipe.read()
    shutil.rmtree(meeting, ignore_errors=True)
    os._exit(cli.FAILED)


if __name__ == "__main__":
    cli.run(main)
