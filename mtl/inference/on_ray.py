"""Make the parts of an output folder on a Ray cluster: actors with a model each, to which Ray Data hands the parts.

Actors read and write the files themselves, through `mtl.inference.workers.Maker`; what Ray moves is a number for each
part. So the outputs are those of any other number of processes, and machines that come or go only change the time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mtl.base.cli import of_system
from mtl.base.errors import ConfigError, MtlError, Problem
from mtl.inference.folders import Outputs, Part
from mtl.inference.workers import Load, Make, Maker, Write, in_processes


def engine(name: str | None) -> Make:
    """Return what makes parts: processes of this machine, or with the name ``ray`` a cluster."""
    if name != "ray":
        return in_processes
    if find_spec("ray") is None:
        expected = "processes of this machine, or ray with its package"
        raise ConfigError(Problem("engine", "ray, which is not installed", expected, "pip install 'mtl[ray]'"))
    return in_ray


def in_ray(
    parts: Sequence[Part], outputs: Outputs, load: Load, device: str | None, processes: int | None
) -> Iterator[Part]:
    """Yield the parts as they are finished; the output folder is in a file system that all machines share.

    Without ``device`` the GPUs of the cluster are used if it has any, and ``processes``, the number of actors, is one
    per GPU by default, or one per machine without GPUs.

    Raises:
        ConfigError: There is no such cluster, or it lacks the device.
        MtlError: As in `MultiTaskModel.predict`. What is finished stays so.
    """
    import ray
    import ray.data

    started_here = not ray.is_initialized()
    if started_here:
        _connect()
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        count, resources = _actors(ray.cluster_resources(), len(ray.nodes()), device, processes, len(parts))
        numbers = ray.data.from_items([{"part": at} for at in range(len(parts))], override_num_blocks=len(parts))
        where, threads = "cuda" if "num_gpus" in resources else device, max(1, int(resources["num_cpus"]))
        arguments = (Path.cwd(), parts, outputs, partial(load, where, threads))
        finished = numbers.map(_Actor, fn_constructor_args=arguments, concurrency=(1, count), **resources)
        for row in finished.iter_rows():
            if row["error"]:
                raise MtlError.from_json(row["error"])
            yield parts[row["part"]]
    finally:
        if started_here:
            ray.shutdown()


def _connect() -> None:
    """Connect to the cluster of ``RAY_ADDRESS``, or that of ``ray start`` on this machine, or start one here."""
    import ray

    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        found = f"ray, and {' '.join(str(error).split())}"
        repair = "check RAY_ADDRESS; without it a cluster is started on this machine"
        raise ConfigError(Problem("engine", found, "a Ray cluster that answers", repair)) from None


def _actors(
    cluster: dict[str, float], nodes: int, device: str | None, processes: int | None, parts: int
) -> tuple[int, dict[str, float]]:
    """Return the number of actors, and what each of them holds of the cluster."""
    gpus, cpus = int(cluster.get("GPU", 0)), cluster.get("CPU", 1)
    if device == "mps" or (device == "cuda" and not gpus):
        raise ConfigError(Problem("device", str(device), f"cpu; the Ray cluster has {gpus} GPUs"))
    uses_gpus = gpus > 0 and device != "cpu"
    count = min(processes or (gpus if uses_gpus else nodes), parts)
    share = {"num_cpus": cpus / count if cpus < count else float(cpus // count)}
    return count, share | ({"num_gpus": min(1.0, gpus / count)} if uses_gpus else {})


class _Actor:
    """Makes parts, and returns an error as a value: of an exception that Ray passes on, only the text would be left."""

    def __init__(self, working: Path, parts: Sequence[Part], outputs: Outputs, load: Callable[[], Write]) -> None:
        os.chdir(working)  # what relative paths are relative to
        self._parts = parts
        self._new: Callable[[], Maker] = lambda: Maker(outputs, load())
        self._maker: Maker | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make a part."""
        shown = ""
        try:
            self._maker = self._maker or self._new()
            self._maker.make(self._parts[row["part"]])
        except (MtlError, OSError) as error:
            shown = (of_system(error) if isinstance(error, OSError) else error).to_json()
        return {"part": row["part"], "error": shown}
