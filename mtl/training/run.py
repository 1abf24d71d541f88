"""One training run, from a checked configuration to its folder: prepare, fit, evaluate, write; then show."""

from __future__ import annotations

import gc
import logging
import os
import signal
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path

from mtl.base.errors import TrainingError
from mtl.base.run_folder import CONFIG, check, full_disk_explained, in_use, is_finished
from mtl.config.checks import load
from mtl.config.fields import Config
from mtl.evaluation.scoring import Scored
from mtl.training.callbacks import EarlyEnd
from mtl.training.fit import fit, fit_network
from mtl.training.hardware import count_processes
from mtl.training.inputs import absolute
from mtl.training.launch import launch
from mtl.training.prepare import prepare, prepare_process
from mtl.training.ranks import ALONE, ON_THIS_MACHINE, Group, of_launcher
from mtl.training.results import evaluate, show, write
from mtl.training.stopping import how_to_resume, stopping
from mtl.training.trackers import report, tracking

log = logging.getLogger(__name__)


def train(
    config: Config,
    folder: Path,
    choices: Mapping[str, str] | None = None,
    *,
    resume: bool = False,
    brief: bool = False,
    group: Group | None = None,
    stops_early: Callable[[int, float], bool] | None = None,
) -> dict[str, dict[str, Scored]]:
    """Train, evaluate on val and test, save the model, and write the report and all other files of a run.

    ``group`` is the processes that train with this one, the first; without it they are started here. A ``brief`` run
    prints a single table of results, as a job of a sweep does. A single process can be stopped early with
    `mtl.training.callbacks.EarlyEnd`, and then raises `StoppedEarly` and has no results.

    Returns:
        The scores and predictions of each task and split; none if they were computed in another process.
    """
    _silence_lightning()
    check(folder)
    config, choices = absolute(config), choices or {}
    started_here = ON_THIS_MACHINE in os.environ  # by a process that keeps the folder
    with (
        nullcontext() if started_here else in_use(folder),
        full_disk_explained(folder),
        stopping(folder) as stop,
    ):
        if group is None and (number := count_processes(config.trainer)) > 1:
            job = {"config": asdict(config), "folder": str(folder), "choices": dict(choices)}
            launch({**job, "resume": resume, "brief": brief}, number, folder)
            return {}
        if group is not None and not started_here:
            config = of_launcher(config, group.process, resume=resume)
        try:
            prepared = prepare(config, folder, choices, stop, ALONE if group is None else group.process, resume=resume)
            if group is not None:
                group.send({"config": asdict(config), "folder": str(folder), "resume": resume})
            elif stops_early is not None and (training := prepared.training) is not None:
                training.trainer.callbacks.append(EarlyEnd(training.steps, stops_early))  # type: ignore[attr-defined]
            with tracking(prepared, choices, of_sweep=brief) as trackers:
                trained = fit(prepared, group)
                results = evaluate(prepared, trained, choices)
                write(results)
                report(trackers, results)
        except KeyboardInterrupt:
            if (folder / CONFIG).is_file() and not is_finished(folder):
                log.info(how_to_resume(folder))
            raise
        show(results, brief=brief)
        return results.scored


def follow_jobs(group: Group) -> None:
    """Train with the first process until it ends, on this process's share of the rows; write and print nothing."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python would handle it after waiting, which may be never
    while (job := group.receive()) is not None:
        config = load(job["config"])
        quiet = replace(config, callbacks=replace(config.callbacks, progress=False))
        with suppress(TrainingError):  # of the first process too, which reports it, and may have another job
            follow(quiet, Path(job["folder"]), group, resume=job["resume"])
        gc.collect()  # the network of this job


def follow(config: Config, folder: Path, group: Group | None, *, resume: bool) -> None:
    """Train as one process of a run, on its share of the rows, without evaluating or writing results."""
    _silence_lightning()
    process = ALONE if group is None else group.process
    with stopping(folder) as stop:
        fit_network(prepare_process(config, folder, stop, process, resume=resume), group)


def _silence_lightning() -> None:
    """Silence what Lightning prints at every start."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*")
    warnings.filterwarnings("ignore", message=r"It is recommended to use `self\.log\(.*sync_dist=True")  # equal already
    warnings.filterwarnings("ignore", message=r".*in eval mode at the start of training.*")  # frozen layers
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")  # of a resumed run
