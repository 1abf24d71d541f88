"""``python -m mtl.train``: train all tasks on a shared encoder, evaluate, and save the model."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mtl import cli, new_folder
from mtl.backbones import CONF
from mtl.composition import check_command_line
from mtl.config import load
from mtl.errors import ConfigError, MtlError, Problem, Terminated, listed
from mtl.run_folder import choices_of, in_use, is_finished, remove_leftovers, run_to_resume
from mtl.study import Study, plan_study

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> None:
    """Check the whole command line, then run its job or its sweep; a failed job does not stop the others."""
    if any(each.startswith("resume=") for each in arguments):
        _resume(arguments)
        return
    command = check_command_line(arguments)
    study = plan_study(command)
    failed: list[str] = []

    def job(cfg: DictConfig) -> None:
        try:
            _job(cfg, study)
        except MtlError as error:
            if not command.multirun:
                raise
            log.error("this job failed, the sweep goes on\n%s", error)
            failed.append(str(error))

    sys.argv[1:] = [*command.arguments, *(study.arguments if study else [])]
    run = hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(_exits(job))
    place = command.folder if study is None else study.folder
    try:
        # before Hydra writes into it: a second run there must not touch what the first one has
        with nullcontext() if place is None else in_use(place), new_folder.making():
            run()
    except KeyboardInterrupt:
        if study is not None:
            print("the same command goes on with the study", file=sys.stderr)
        raise
    if study is not None:
        failed = study.end()
    if failed:
        log.error("%d of the sweep's jobs failed", len(failed))
        sys.exit(cli.FAILED)


def _resume(arguments: Sequence[str]) -> None:
    """Go on with a run in its own folder, with its own configuration."""
    if len(arguments) > 1:
        expected = "resume=<run folder> or resume=auto alone: a run goes on with its own config.yaml"
        raise ConfigError(Problem("resume", listed(arguments), expected, "start a new run to change something"))
    folder = run_to_resume(arguments[0].partition("=")[2])
    if is_finished(folder):
        with in_use(folder):  # which removes the lock of a process that was killed behind its last file
            remove_leftovers(folder)
        print(f"the run in {folder} is finished; there is nothing to resume")
        return
    _log_into(folder)

    with cli.large_imports():  # torch comes only now
        from mtl.reevaluation import read_config
        from mtl.run import train

    train(read_config(folder), folder, choices_of(folder), resume=True)


def _log_into(folder: Path) -> None:
    """Log as conf/hydra/default.yaml has it: plain lines on the terminal, with their times in the run's train.log."""
    console = logging.StreamHandler(sys.stdout)
    file = logging.FileHandler(folder / "train.log", encoding="utf-8")
    file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[console, file])


def _job(cfg: DictConfig, study: Study | None) -> None:
    settings = HydraConfig.get()
    config = load(cfg)
    folder = Path(settings.runtime.output_dir)
    choices = {group: choice for group, choice in settings.runtime.choices.items() if "hydra" not in group and choice}

    with cli.large_imports():  # torch comes only now, after the checks
        from mtl.run import train

    if study is None:
        train(config, folder, choices)
    else:
        study.attend(folder, config, lambda resume: train(config, folder, choices, resume=resume))


def _exits(job: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Turn what we raise into exit codes inside Hydra, which would print a traceback and exit with 1."""

    def wrapped(cfg: DictConfig) -> None:
        try:
            job(cfg)
        except MtlError as error:
            print(error, file=sys.stderr)
            sys.exit(cli.FAILED)
        except Terminated as stop:
            print(stop, file=sys.stderr)
            sys.exit(cli.TERMINATED)
        except OSError as error:
            print(cli.of_system(error), file=sys.stderr)
            sys.exit(cli.FAILED)

    return wrapped


if __name__ == "__main__":
    cli.run(main)
