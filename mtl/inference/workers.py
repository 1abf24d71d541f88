"""Make the parts of an output folder: in this process, or in several of this machine, each with a model of its own.

Those of a Ray cluster are in `mtl.inference.on_ray`, which imports this module.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Final

from mtl.base.cli import TERMINATED
from mtl.base.errors import DataError, MtlError, Problem
from mtl.data.examples import read_texts
from mtl.data.table import Column, Table
from mtl.inference.folders import Outputs, Part
from mtl.inference.sentences import named_part

Write = Callable[[Sequence[str], Path], object]
"""Writes the results of texts to a file, whole or not at all."""
Load = Callable[[str | None, int], Write]
"""Loads a model on a device, to run in that many threads on a CPU; it is pickled for other processes."""
Make = Callable[[Sequence[Part], Outputs, Load, str | None, int | None], Iterator[Part]]
"""Makes parts, at least one, on a device, in that many processes."""
_TITLES: Final = {"predict": "predicting", "encode": "encoding"}


class Maker:
    """Makes parts with a loaded model."""

    def __init__(self, outputs: Outputs, write: Write) -> None:
        self._outputs = outputs
        self._write = write
        outputs.begin()
        self._texts: Table | None = None  # of the last part's file: most often the next part is of the same

    def make(self, part: Part) -> Part:
        """Write the output of a part, then its record, and return the part."""
        if self._texts is None or self._texts.path != part.source:
            self._texts = read_texts(part.source, self._outputs.settings.text_column)
        if len(self._texts) != part.total:
            found, expected = "a file that changed after it was checked", "a file at rest"
            raise DataError(Problem(str(part.source), found, expected, "run again when it is written"))
        self._outputs.record(part).unlink(missing_ok=True)  # first: it is of an earlier output
        rows = self._texts.column("text").slice(part.start, part.stop - part.start)
        if part.start == 0:
            self._outputs.remove_behind(part)
        with named_part(part.file):
            self._write(Column(rows, None), self._outputs.file(part))
        self._outputs.note(part)
        return part


def in_processes(
    parts: Sequence[Part], outputs: Outputs, load: Load, device: str | None, processes: int | None
) -> Iterator[Part]:
    """Yield the parts as they are finished by processes of this machine, by default by this one alone."""
    import torch

    count = min(processes or 1, len(parts))
    if count == 1:
        yield from map(Maker(outputs, load(device, torch.get_num_threads())).make, parts)
        return
    gpus = torch.cuda.device_count() if device in (None, "cuda") else 0
    devices = [f"cuda:{at % gpus}" if gpus > 1 else device for at in range(count)]
    yield from _shared_out(parts, outputs, load, devices, max(1, torch.get_num_threads() // count))


def complete(
    parts: Sequence[Part],
    outputs: Outputs,
    load: Load,
    *,
    device: str | None,
    processes: int | None,
    make: Make = in_processes,
) -> str:
    """Make the parts that are not finished, and return a line for the user; if all are, no model is loaded.

    Several GPUs are shared out unless ``device`` has an index. ``processes`` is None for the default of ``make``, which
    is `in_processes` or `mtl.inference.on_ray.in_ray`.

    Raises:
        MtlError: As in `MultiTaskModel.predict`, or a process has died. What is finished stays so.
    """
    from mtl.activations.encoding import tracked

    left = [part for part in parts if not outputs.has(part)]
    making = make(left, outputs, load, device, processes) if left else ()
    for _ in tracked(making, _TITLES[outputs.settings.command], len(left)):
        pass
    rows, files = sum(part.stop - part.start for part in parts), len({part.source for part in parts})
    before = f", {len(parts) - len(left):,} of them finished before" if len(left) < len(parts) else ""
    return f"{rows:,} sentences of {files:,} files -> {outputs.folder} ({len(parts):,} outputs{before})"


def _shared_out(
    parts: Sequence[Part], outputs: Outputs, load: Load, devices: Sequence[str | None], threads: int
) -> Iterator[Part]:
    """Start a process for each device; one that has finished a part gets the next."""
    context, waiting = multiprocessing.get_context("spawn"), iter(parts)
    workers = dict[Connection, SpawnProcess]()
    try:
        for device in devices:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, outputs, load, device, threads), daemon=True)
            process.start()
            theirs.close()
            workers[ours] = process
        while workers:
            ready = wait(list(workers))
            for connection in [connection for connection in workers if connection in ready]:
                finished, part = _answer(connection, workers[connection]), next(waiting, None)
                with suppress(BrokenPipeError):  # it has died since: the next answer tells
                    connection.send(part)
                if part is None:
                    workers.pop(connection).join()
                if finished is not None:
                    yield finished
    finally:
        for process in workers.values():
            process.terminate()
            process.join()


def _answer(connection: Connection, process: SpawnProcess) -> Part | None:
    """Return the part that a process has finished, ``None`` if it has just loaded its model, or raise its error."""
    try:
        answer: Part | Exception | None = connection.recv()
    except (EOFError, OSError):
        process.join()
        expected = "a process that works until all outputs are finished"
        repair = "repeat the command, with fewer processes= if memory is short: what is finished stays so"
        found = f"ended with exit code {process.exitcode}"
        raise MtlError(Problem(f"process {process.pid}", found, expected, repair)) from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _work(connection: Connection, outputs: Outputs, load: Load, device: str | None, threads: int) -> None:
    """Make one part after the other until there are none, or the main process is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the main process, too, which ends this one:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # unwound, so that no temporary file is left
    try:
        maker = Maker(outputs, load(device, threads))
        connection.send(None)
        while (part := connection.recv()) is not None:
            connection.send(maker.make(part))
    except (EOFError, BrokenPipeError):
        return
    except (MtlError, OSError, MemoryError) as error:
        connection.send(error)
