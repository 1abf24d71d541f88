"""``python -m mtl.training.rank``: one of the processes of a training that `mtl.training.launch` starts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from mtl.base import cli
from mtl.base.errors import MtlError, Terminated
from mtl.base.run_folder import log_into
from mtl.training.launch import JOB, LOST, error_file
from mtl.training.ranks import LostPeersError


def main(arguments: Sequence[str]) -> None:
    """Take part in a training; errors go to the process that waits.

    The arguments are the folder in which the processes meet, and the number of the process that waits for them.
    """
    meeting, parent = Path(arguments[0]), int(arguments[1])
    threading.Thread(target=_end_with, args=[parent, meeting], daemon=True).start()
    rank = int(os.environ["RANK"])
    try:
        _take_part(rank, meeting)
    except (MtlError, OSError) as error:
        shown = cli.of_system(error) if isinstance(error, OSError) else error
        error_file(meeting, rank).write_text(shown.to_json(), encoding="utf-8")
        sys.exit(LOST if isinstance(error, LostPeersError) else cli.FAILED)
    except KeyboardInterrupt:
        sys.exit(cli.INTERRUPTED)
    except Terminated:
        sys.exit(cli.TERMINATED)


def _take_part(rank: int, meeting: Path) -> None:
    with cli.large_imports():
        from mtl.config.checks import load
        from mtl.training.ranks import join
        from mtl.training.run import follow_jobs, train

    group = join([])
    if rank:
        follow_jobs(group)
        return
    job = json.loads((meeting / JOB).read_text(encoding="utf-8"))
    folder = Path(job["folder"])
    log_into(folder)
    with group.leading():
        train(load(job["config"]), folder, job["choices"], resume=job["resume"], brief=job["brief"], group=group)


def _end_with(parent: int, meeting: Path) -> None:
    """End this process, and what is left of the folder in which they met, when the process that waits has died."""
    while os.getppid() == parent:
        time.sleep(1)
    shutil.rmtree(meeting, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    cli.run(main)
