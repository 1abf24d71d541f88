"""The processes of a parallel training: the first one starts the others, watches them, and ends with them.

Lightning would start the command line again in each process: a sweep would begin once more, and each process would
check the command and make a folder for itself. Here the others run `mtl.rank`, which is told the run folder, and reads
the configuration there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING

import torch
import torch.distributed as dist

import mtl
from mtl import cli
from mtl.errors import MtlError, Problem, TrainingError
from mtl.training.parallel import Place, leave

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

Connect = Callable[[torch.device], None]
_HOST = "127.0.0.1"
_POLL_SECONDS = 0.05
_TIMEOUT = timedelta(minutes=30)
"""How long one process waits for another that lives: it may fill a cache of activations meanwhile."""
_GRACE_SECONDS = 60.0
"""How long the first process may take to notice by itself that another one has died; with gloo that is at once."""
_TOLD_LINES = 20


@dataclass(slots=True)
class _Companion:
    """Another process of the training, with what it has to say."""

    rank: int
    process: subprocess.Popen[bytes]
    said: IO[bytes]


@dataclass(slots=True)
class Companions:
    """The other processes of a training, for the first one.

    Args:
        place: Which process this is.
        store: Where the processes find each other.
        others: The other processes.
    """

    place: Place
    store: TCPStore
    others: Sequence[_Companion]
    _over: threading.Event = field(default_factory=threading.Event)

    def connect(self, device: torch.device) -> None:
        """Wait until the others are ready, form a group with them, and watch them from then on.

        Raises:
            TrainingError: One of them has ended.
        """
        waited = [f"ready/{each.rank}" for each in self.others]
        while not self.store.check(waited):
            if failure := self.failure():
                raise failure
            time.sleep(_POLL_SECONDS)
        _join(self.place, self.store, device)
        threading.Thread(target=self._watch, name="companions", daemon=True).start()

    def failure(self, patience: float = 0.0) -> TrainingError | None:
        """Return what became of the first process that has failed, if one has.

        Args:
            patience: Seconds to wait for one to fail.
        """
        end = time.monotonic() + patience
        while True:
            failed = next((each for each in self.others if each.process.poll() not in (None, 0)), None)
            if failed is not None:
                return _told(failed, self.place.world_size)
            if time.monotonic() >= end:
                return None
            time.sleep(_POLL_SECONDS)

    def end(self) -> None:
        """Stop watching, and end what still runs."""
        self._over.set()
        for each in self.others:
            if each.process.stdin is not None:
                each.process.stdin.close()  # which tells them: see `end_with`
        for each in self.others:
            each.process.kill()
            each.process.wait()
            each.said.close()

    def _watch(self) -> None:
        """End this process if another one has died and this one, which may wait for it in NCCL, has not noticed."""
        while not self._over.wait(_POLL_SECONDS * 4):
            failure = self.failure()
            if failure is not None:
                if not self._over.wait(_GRACE_SECONDS):
                    print(failure, file=sys.stderr, flush=True)
                    os._exit(cli.FAILED)
                return


@contextmanager
def companions(place: Place, folder: Path, *flags: str) -> Iterator[Connect]:
    """Have the other processes of a training inside the block.

    Args:
        place: Which process this is. Only the first one starts others; where it is alone nothing happens.
        folder: The run folder with its configuration.
        *flags: Further arguments of `mtl.rank`.

    Yields:
        What joins the group of all processes; to be called by each, before they train together.

    Raises:
        TrainingError: One of the others has died, of which the error that came out of the block is a consequence.
    """
    if place.world_size == 1:
        yield lambda _: None
        return
    from torch._C._distributed_c10d import TCPStore  # which a PyTorch that trains in one process may lack

    store = TCPStore(_HOST, 0, place.world_size, is_master=True, timeout=_TIMEOUT, wait_for_workers=False)
    threads = torch.get_num_threads()
    each = threads if "OMP_NUM_THREADS" in os.environ else max(1, threads // place.world_size)
    group = Companions(place, store, [])
    try:
        group.others = [_start(Place(rank, place.world_size), store.port, each, folder, flags) for rank in _rest(place)]
        torch.set_num_threads(each)
        yield group.connect
    except MtlError:
        raise
    except Exception as error:
        failure = group.failure(patience=5.0)
        if failure is None:
            raise
        raise failure from error
    finally:
        torch.set_num_threads(threads)
        group.end()
        leave()


def _rest(place: Place) -> range:
    return range(1, place.world_size)


def _start(place: Place, port: int, threads: int, folder: Path, flags: Sequence[str]) -> _Companion:
    known = {"RANK": place.rank, "LOCAL_RANK": place.rank, "WORLD_SIZE": place.world_size, "MASTER_PORT": port}
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "MASTER_ADDR": _HOST}
    environment |= {name: str(value) for name, value in known.items()}
    paths = [str(Path(mtl.__file__).parents[1]), os.environ.get("PYTHONPATH")]  # the same program as this process
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `Companions.end`
    process = subprocess.Popen(  # noqa: S603 - this program itself
        [sys.executable, "-m", "mtl.rank", str(folder), *flags],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=said,
    )
    return _Companion(place.rank, process, said)


def join_as_companion() -> tuple[Place, Connect]:
    """Return which process this is, as its environment says, and what joins the group; for `mtl.rank`."""
    from torch._C._distributed_c10d import TCPStore

    place = Place(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    store = TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), place.world_size, is_master=False, timeout=_TIMEOUT
    )

    def connect(device: torch.device) -> None:
        store.set(f"ready/{place.rank}", "")
        _join(place, store, device)

    return place, connect


def end_with(pipe: IO[bytes]) -> None:
    """End this process as soon as the other end of ``pipe`` is closed, as it is when the first process dies."""

    def wait() -> None:
        pipe.read()
        os._exit(cli.FAILED)

    threading.Thread(target=wait, name="end", daemon=True).start()


def _join(place: Place, store: TCPStore, device: torch.device) -> None:
    from torch._C._distributed_c10d import PrefixStore

    cuda = device.type == "cuda"
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=PrefixStore("group", store),
        rank=place.rank,
        world_size=place.world_size,
        timeout=_TIMEOUT,
        device_id=device if cuda else None,
    )


def _told(companion: _Companion, world_size: int) -> TrainingError:
    """Return the error for a process that has failed, with its last words."""
    code = companion.process.returncode
    companion.said.seek(0)
    lines = companion.said.read().decode(errors="replace").strip().splitlines()
    found = f"it ended with exit code {code}"
    repair = "mend what it says, and start the run again"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        found = f"it was ended by {name}"
        repair = "find what ended it; the system does if memory runs out: then a smaller data.batch_size"
    last = lines[-_TOLD_LINES:] if code == cli.FAILED else lines[-1:]
    if last and code > 0:
        found += ", and said:\n" + "\n".join(f"      {line}" for line in last)
    place = f"process {companion.rank} of 0 to {world_size - 1}"
    return TrainingError(Problem(place, found, "all processes at work up to the end of training", repair))
