"""Train in several processes of this machine: start them, wait for them, and end them together.

`torch.distributed.elastic.multiprocessing`, from which torchrun is made, starts and watches them. Each runs
``python -m mtl.training.rank``, and goes the way of a process that torchrun has started; this one only waits, so that
it hears signals at any time.

No other program can join. The processes meet through a file in a folder that only their user can enter, and listen
only on the loopback interface.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mtl
from mtl.base import cli
from mtl.base.errors import MtlError, Problem, Terminated, TrainingError
from mtl.training.ranks import ON_THIS_MACHINE, QUIET
from mtl.training.stopping import SIGNALS, how_to_resume, install

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing import RunProcsResult

LOST = 75
"""Exit code of a process that has lost another one, which is the cause."""
JOB = "job.json"
_POLL_SECONDS = 0.1
_GRACE_SECONDS = {signal.SIGINT: 10, signal.SIGTERM: 60}
"""How long processes may take to end after a signal, before they are killed."""
_HANDLED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
_LAST_LINES = 20


def launch(job: Mapping[str, Any], number: int, folder: Path) -> None:
    """Do a job of `mtl.training.rank` in several processes, and wait until all have ended.

    Raises:
        MtlError: What the first process that failed has reported.
        Terminated: This process, or all others, received a signal to end.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std, start_processes

    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="mtl-", ignore_cleanup_errors=True) as meeting:
        (Path(meeting) / JOB).write_text(json.dumps(job), encoding="utf-8")
        handlers = {number: signal.getsignal(number) for number in signal.Signals if number.name in _HANDLED}
        processes = start_processes(
            "mtl",
            sys.executable,
            args={rank: ("-m", "mtl.training.rank", meeting, os.getpid()) for rank in range(number)},
            envs={rank: _variables(rank, number, meeting) for rank in range(number)},
            logs_specs=DefaultLogsSpecs(meeting, redirects=dict.fromkeys(range(1, number), Std.ALL)),
        )
        try:
            install(handlers)  # which `start_processes` has replaced
            result = processes.wait(period=_POLL_SECONDS)
        except (KeyboardInterrupt, Terminated) as stop:
            sent = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM
            processes.close(sent, _GRACE_SECONDS[sent])
            raise
        finally:
            processes.close(signal.SIGKILL)
        if result is not None and result.is_failed():
            raise _cause(result, number, Path(meeting), folder)


def _variables(rank: int, number: int, meeting: str) -> dict[str, str]:
    """Return the variables of a process: those of torchrun, its share of the threads, and the path of this program."""
    import torch

    threads = str(max(1, torch.get_num_threads() // number))
    path = [str(Path(mtl.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        ON_THIS_MACHINE: meeting,
        **QUIET,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
        "PYTHONPATH": os.pathsep.join(part for part in path if part),
    }


def error_file(meeting: Path, rank: int) -> Path:
    """Return the file in which a process leaves its error."""
    return meeting / f"error-{rank}.json"


def _cause(result: RunProcsResult, number: int, meeting: Path, folder: Path) -> BaseException:
    """Return the error of the process that failed first: the others have lost it, or were ended because of it."""
    failures = sorted(result.failures.values(), key=lambda failure: (failure.timestamp, failure.local_rank))
    consequences = (LOST, cli.TERMINATED, *(-number for number in SIGNALS))
    causes = [failure for failure in failures if failure.exitcode not in consequences]
    first = next(iter([*causes, *(failure for failure in failures if failure.exitcode == LOST)]), None)
    if first is None:
        return Terminated(f"ended by a signal; {how_to_resume(folder)}")
    if (file := error_file(meeting, first.local_rank)).is_file():
        return MtlError.from_json(file.read_text(encoding="utf-8"))
    return _explained(first.local_rank, first.exitcode, number, result.stderrs[first.local_rank], folder)


def _explained(rank: int, code: int, number: int, stderr: str, folder: Path) -> TrainingError:
    """Return the error for a process that has ended without a report, with the end of its error output."""
    found = f"it ended with exit code {code}"
    repair = f"fix what it reports; {how_to_resume(folder)}"
    if code < 0:
        found = f"it was ended by {signal.Signals(-code).name if -code in set(signal.Signals) else f'signal {-code}'}"
        repair = "find out what ended it; if the system did, for lack of memory: a smaller data.batch_size"
    elif stderr and (lines := Path(stderr).read_text(encoding="utf-8", errors="replace").strip().splitlines()):
        found += ", with the output:\n" + "\n".join(f"      {line}" for line in lines[-_LAST_LINES:])
    place = f"process {rank} of 0 to {number - 1}"
    return TrainingError(Problem(place, found, "all processes running until the end of training", repair))
