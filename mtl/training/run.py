"""One training run, from a checked configuration to its folder: prepare, fit, evaluate, write; then show."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

from mtl.base.run_folder import CONFIG, check, full_disk_explained, in_use, is_finished
from mtl.config.fields import Config
from mtl.evaluation.scoring import Scored
from mtl.training.companions import Connect
from mtl.training.fit import fit, fit_network
from mtl.training.inputs import absolute
from mtl.training.parallel import Place
from mtl.training.prepare import prepare, prepare_process
from mtl.training.results import evaluate, show, write
from mtl.training.stopping import stopping
from mtl.training.trackers import report, tracking

log = logging.getLogger(__name__)


def train(
    config: Config,
    folder: Path,
    choices: Mapping[str, str] | None = None,
    *,
    resume: bool = False,
    brief: bool = False,
) -> dict[str, dict[str, Scored]]:
    """Train, evaluate on val and test, save the model, and write the report and all other files of a run.

    Args:
        config: The checked configuration.
        folder: The run folder.
        choices: The choice made in each configuration group, for the report.
        resume: Whether to resume the run in the folder, from its last checkpoint if there is one.
        brief: Whether to print a single table of results, as for a job of a sweep.

    Returns:
        The scores and predictions of each task and split.

    Raises:
        MtlError: Data, weights, flags or trackers cannot be used, and nothing was trained; the disk is full; a
            checkpoint to resume from is damaged, or belongs to other data, weights or settings.
        Terminated: SIGTERM was received.
    """
    _silence_lightning()
    check(folder)
    with in_use(folder), full_disk_explained(folder), stopping(_advice(folder)) as stop:
        try:
            prepared = prepare(absolute(config), folder, choices or {}, stop, resume=resume)
            with tracking(prepared, choices or {}, of_sweep=brief) as trackers:
                trained = fit(prepared)
                results = evaluate(prepared, trained, choices or {})
                write(results)
                report(trackers, results)
        except KeyboardInterrupt:
            if (folder / CONFIG).is_file() and not is_finished(folder):
                log.info(_advice(folder))
            raise
        show(results, brief=brief)
        return results.scored


def _advice(folder: Path) -> str:
    return f"to resume: python -m mtl.train resume={folder}"


def follow(config: Config, folder: Path, place: Place, connect: Connect, *, resume: bool = False) -> None:
    """Train as a further process of a run, on its share of the rows; it writes nothing.

    Args:
        config: The configuration of the run.
        folder: The run folder.
        place: The rank of this process.
        connect: Joins the group of all processes.
        resume: Whether to resume from the last checkpoint in the folder, if there is one.

    Raises:
        MtlError: As `train` does.
        Terminated: The processes are to end.
    """
    _silence_lightning()
    with stopping(_advice(folder)) as stop:
        fit_network(prepare_process(config, folder, stop, place.rank, resume=resume), connect)


def _silence_lightning() -> None:
    """Silence what Lightning prints at every start."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*")
    warnings.filterwarnings("ignore", message=r"It is recommended to use `self\.log\(.*sync_dist=True")  # equal already
    warnings.filterwarnings("ignore", message=r".*in eval mode at the start of training.*")  # frozen layers
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")  # of a resumed run
