"""Start, watch and end the other processes of a parallel training, from the first one.

Lightning would start the command line again in each process: a sweep would start again, and each process would check
the command and make its own folder. Here the others run `mtl.training.rank` with the run folder as an argument, and
read the configuration there.

No other program can join. The processes find each other through a file in a folder that only their user can enter,
listen only on the loopback interface, and exchange numbers and JSON, never pickled objects.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO

import torch
import torch.distributed as dist

import mtl
from mtl.base import cli
from mtl.base.errors import MtlError, Problem, TrainingError
from mtl.training.parallel import Place, leave
from mtl.training.stopping import Stop

Connect = Callable[[torch.device], None]
_POLL_SECONDS = 0.05
_WATCH_SECONDS = 0.2
_TIMEOUT = timedelta(minutes=30)
"""How long a process waits for another running one, which may be filling the cache of activations."""
_SILENCE_SECONDS = 60.0
"""How long a process may show no sign of life; it shows one every second."""
_SIGNAL_SECONDS: dict[int, float] = {signal.SIGINT: 5.0, signal.SIGTERM: 30.0}
"""How long the first process may take to handle a signal while it waits for the others."""
_GRACE_SECONDS = 60.0
"""How long the first process may take to notice that another one has died; with gloo it does at once."""
_LAST_LINES = 20
_LOOPBACK = ("lo", "lo0")
"""Names of the loopback interface: on Linux, on macOS and BSD."""


@dataclass(slots=True)
class _Companion:
    """Another process of the training.

    Attributes:
        rank: Its number.
        process: The process.
        stderr: The file with its error output.
        sign_of_life: A file that it touches every second.
        silence: Seconds since it last did, without those in which this process was suspended too.
    """

    rank: int
    process: subprocess.Popen[bytes]
    stderr: IO[bytes]
    sign_of_life: Path
    silence: float = 0.0
    _touched: int = 0

    def observe(self, seconds: float) -> None:
        """Look for a sign of life, ``seconds`` after the last look; kill the process if there was none for too long."""
        if self.process.poll() is not None:
            return
        with suppress(FileNotFoundError):
            touched = self.sign_of_life.stat().st_mtime_ns
            if touched != self._touched:
                self._touched, self.silence = touched, 0.0
                return
        self.silence += seconds
        if self.silence >= _SILENCE_SECONDS:
            self.process.kill()

    @property
    def failed(self) -> bool:
        """Whether it ended before training did."""
        return self.process.poll() not in (None, 0)


@dataclass(slots=True)
class Companions:
    """The other processes of a training, for the first one.

    Args:
        place: The rank of this process.
        folder: The run folder.
        stop: Whether this process is to end.
        meeting: The folder through which the processes find each other.
        others: The other processes.
    """

    place: Place
    folder: Path
    stop: Stop
    meeting: Path
    others: Sequence[_Companion]
    _over: threading.Event = field(default_factory=threading.Event)
    _watcher: threading.Thread | None = None
    _gave_up: int | None = None
    """The signal for which the others were killed."""

    def connect(self, device: torch.device) -> None:
        """Wait until the others are ready, and form a group with them.

        Raises:
            TrainingError: One of them has ended, or is not ready in time.
            Terminated: This process is to end.
        """
        awaited = [_ready(self.meeting, companion.rank) for companion in self.others]
        end = time.monotonic() + _TIMEOUT.total_seconds()
        while not all(path.exists() for path in awaited):
            if self.stop.requested:
                raise self.stop.terminated()
            if failure := self.failure():
                raise failure
            if time.monotonic() >= end:
                raise self._timed_out()
            time.sleep(_POLL_SECONDS)
        _join(self.place, self.meeting, device)

    def failure(self, patience: float = 0.0) -> TrainingError | None:
        """Return the error of the first process that has failed, if one has.

        Args:
            patience: Seconds to wait for a failure.
        """
        end = time.monotonic() + patience
        while True:
            failed = next((companion for companion in self.others if companion.failed), None)
            if failed is not None:
                return _explained(failed, self.place.world_size, self.folder)
            if time.monotonic() >= end:
                return None
            time.sleep(_POLL_SECONDS)

    def cause(self, error: Exception) -> BaseException:
        """Return the cause of an error that training raised, which may be the error itself."""
        failure = self.failure(patience=5.0)
        if self._gave_up == signal.SIGINT:
            return KeyboardInterrupt()
        if self._gave_up == signal.SIGTERM or (failure is not None and self.stop.requested):
            return self.stop.terminated()
        if failure is None and (isinstance(error, dist.DistError) or "gloo" in str(error)):
            return self._timed_out()
        return failure or error

    def watch(self, signals: socket.socket) -> None:
        """Watch the others, and the numbers of signals, in a thread: this one may wait where Python handles none."""
        self._watcher = threading.Thread(target=self._watch, args=[signals], name="companions", daemon=True)
        self._watcher.start()

    def _watch(self, signals: socket.socket) -> None:
        """Kill the others if one is silent or a signal is pending; end this process if it does not notice."""
        pending: dict[int, float] = {}
        noticed = float("inf")
        while not self._over.wait(_WATCH_SECONDS):
            now = time.monotonic()
            for companion in self.others:
                companion.observe(_WATCH_SECONDS)
            for number in _received(signals):
                pending.setdefault(number, now)
            for number, since in pending.items():
                stops = number == signal.SIGTERM and self.stop.requested  # after this step, with a checkpoint
                if now >= since + _SIGNAL_SECONDS[number] and not stops:
                    self._give_up(number)
            if noticed == float("inf") and any(companion.failed for companion in self.others):
                noticed = now + _GRACE_SECONDS
            if now >= noticed:
                self._exit()

    def _give_up(self, number: int) -> None:
        """Kill the others, so that this process need not wait for them before it handles a signal."""
        self._gave_up = number
        for companion in self.others:
            companion.process.kill()

    def _exit(self) -> None:
        """End this process, which waits (in NCCL, or for a connection) for one that has died."""
        message: object = self.failure()
        if self._gave_up is not None:
            message = "interrupted" if self._gave_up == signal.SIGINT else self.stop.terminated()
        print(message, file=sys.stderr, flush=True)
        shutil.rmtree(self.meeting, ignore_errors=True)
        os._exit(cli.FAILED if self._gave_up is None else 128 + self._gave_up)

    def end(self) -> None:
        """Stop watching, and end the processes that still run."""
        self._over.set()
        if self._watcher is not None:
            self._watcher.join()
        for companion in self.others:
            if companion.process.stdin is not None:
                companion.process.stdin.close()  # ends them, see `mtl.training.rank`
        for companion in self.others:
            companion.process.kill()
            with suppress(subprocess.TimeoutExpired):
                companion.process.wait(_GRACE_SECONDS)
            companion.stderr.close()

    def _timed_out(self) -> TrainingError:
        waited = f"no answer for {_TIMEOUT.total_seconds() / 60:.0f} minutes, though all processes are running"
        return TrainingError(
            Problem("the processes", waited, "processes that take about the same time", _resume(self.folder))
        )


@contextmanager
def companions(place: Place, folder: Path, stop: Stop, *flags: str) -> Iterator[Connect]:
    """Run the other processes of a training inside the block.

    Args:
        place: The rank of this process. Only the first one starts others; with a single process nothing happens.
        folder: The run folder with its configuration.
        stop: Whether this process is to end.
        *flags: Further arguments of `mtl.training.rank`.

    Yields:
        A function that joins the group of all processes; each calls it before they train together.

    Raises:
        TrainingError: Another process has died or hangs, which caused an error in the block.
        Terminated: SIGTERM caused an error in the block.
    """
    if place.world_size == 1:
        yield lambda _: None
        return
    threads = torch.get_num_threads()
    share = threads if "OMP_NUM_THREADS" in os.environ else max(1, threads // place.world_size)
    with _signals() as signals, tempfile.TemporaryDirectory(prefix="mtl-", ignore_cleanup_errors=True) as meeting:
        group = Companions(place, folder, stop, Path(meeting), [])
        try:
            group.others = [
                _start(Place(rank, place.world_size), Path(meeting), share, folder, flags)
                for rank in range(1, place.world_size)
            ]
            group.watch(signals)
            torch.set_num_threads(share)
            yield group.connect
        except MtlError:
            raise
        except Exception as error:
            cause = group.cause(error)
            if cause is error:
                raise
            raise cause from error
        finally:
            torch.set_num_threads(threads)
            group.end()
            leave()


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """Yield a socket that receives the number of each signal at once; Python's handlers wait for the main thread."""
    receiver, sender = socket.socketpair()
    with receiver, sender:
        receiver.setblocking(False)
        sender.setblocking(False)
        if threading.current_thread() is not threading.main_thread():
            yield receiver
            return
        before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        try:
            yield receiver
        finally:
            signal.set_wakeup_fd(before)


def _received(signals: socket.socket) -> list[int]:
    """Return the received signals that ask the process to end."""
    try:
        return [number for number in signals.recv(64) if number in _SIGNAL_SECONDS]
    except BlockingIOError:
        return []


def _start(place: Place, meeting: Path, threads: int, folder: Path, flags: Sequence[str]) -> _Companion:
    known = {"RANK": place.rank, "LOCAL_RANK": place.rank, "WORLD_SIZE": place.world_size}
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    environment |= {name: str(value) for name, value in known.items()}
    paths = [str(Path(mtl.__file__).parents[1]), os.environ.get("PYTHONPATH")]  # the same program as this process
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    sign_of_life = meeting / f"alive-{place.rank}"
    stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `Companions.end`
    process = subprocess.Popen(  # noqa: S603 - this program itself
        [sys.executable, "-m", "mtl.training.rank", str(folder), str(meeting), str(sign_of_life), *flags],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
    )
    return _Companion(place.rank, process, stderr, sign_of_life)


def join_as_companion(meeting: Path) -> tuple[Place, Connect]:
    """Return the rank of this process from its environment, and the function that joins the group in a folder."""
    place = Place(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))

    def connect(device: torch.device) -> None:
        _ready(meeting, place.rank).touch()
        _join(place, meeting, device)

    return place, connect


def _ready(meeting: Path, rank: int) -> Path:
    """Return the file by which a process shows that it waits for the group."""
    return meeting / f"ready-{rank}"


def _join(place: Place, meeting: Path, device: torch.device) -> None:
    """Form the group, on the loopback interface: all processes are on this machine."""
    for interface in {name for _, name in socket.if_nameindex()} & set(_LOOPBACK):
        os.environ |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}"}
    cuda = device.type == "cuda"
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=dist.FileStore(str(meeting / "store"), place.world_size),  # type: ignore[attr-defined]
        rank=place.rank,
        world_size=place.world_size,
        timeout=_TIMEOUT,
        device_id=device if cuda else None,
    )


def _explained(companion: _Companion, world_size: int, folder: Path) -> TrainingError:
    """Return the error for a process that has failed, with the end of its error output."""
    code = companion.process.returncode
    companion.stderr.seek(0)
    lines = companion.stderr.read().decode(errors="replace").strip().splitlines()
    end = f"it ended with exit code {code}"
    repair = "fix what it reports, then start the run again"
    if companion.silence >= _SILENCE_SECONDS:
        end = f"no sign of life for {_SILENCE_SECONDS:.0f} s: it was stopped, or got no time or memory to run"
        repair = f"find out why; {_resume(folder)}"
    elif code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        end = f"it was ended by {name}"
        repair = "find out what ended it; if the system did, for lack of memory: a smaller data.batch_size"
    last = lines[-_LAST_LINES:] if code == cli.FAILED else lines[-1:]
    if last and code > 0:
        end += ", with the output:\n" + "\n".join(f"      {line}" for line in last)
    place = f"process {companion.rank} of 0 to {world_size - 1}"
    return TrainingError(Problem(place, end, "all processes running until the end of training", repair))


def _resume(folder: Path) -> str:
    return f"to resume: python -m mtl.train resume={shlex.quote(str(folder))}"
