"""``python -m mtl.train``: train all tasks on a shared encoder, evaluate, and save the model."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mtl import cli
from mtl.backbones import CONF
from mtl.composition import check_command_line
from mtl.config import load
from mtl.errors import MtlError
from mtl.study import Study, plan_study

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> None:
    """Check the whole command line, then run its job or its sweep; a failed job does not stop the others."""
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
    run()
    if study is not None:
        failed = study.end()
    if failed:
        log.error("%d of the sweep's jobs failed", len(failed))
        sys.exit(cli.FAILED)


def _job(cfg: DictConfig, study: Study | None) -> None:
    settings = HydraConfig.get()
    config = load(cfg)
    folder = Path(settings.runtime.output_dir)
    choices = {group: choice for group, choice in settings.runtime.choices.items() if "hydra" not in group and choice}

    from mtl.run import train  # torch comes only now, after the checks

    if study is None:
        train(config, folder, choices)
    else:
        study.attend(folder, config, lambda: train(config, folder, choices))


def _exits(job: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Turn our errors into exit code 2 inside Hydra, which would print a traceback and exit with 1."""

    def wrapped(cfg: DictConfig) -> None:
        try:
            job(cfg)
        except MtlError as error:
            print(error, file=sys.stderr)
            sys.exit(cli.FAILED)
        except OSError as error:
            print(cli.of_system(error), file=sys.stderr)
            sys.exit(cli.FAILED)

    return wrapped


if __name__ == "__main__":
    cli.run(main)
