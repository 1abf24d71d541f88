"""``python -m mtl.train``: train all tasks on a shared encoder, evaluate, and save the model.

From Python the module itself is called, ``from mtl import train``: see `mtl.training.interface.train`.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig

from mtl.base import cli
from mtl.base.errors import ConfigError, MtlError, Problem, Terminated, TrainingError, listed, printable
from mtl.base.files import CONF
from mtl.base.run_folder import (
    CHECKPOINTS,
    choices_of,
    in_use,
    is_finished,
    log_into,
    remove_leftovers,
    run_to_resume,
)
from mtl.config.checks import load
from mtl.config.command_line import check_command_line, choices_in
from mtl.config.composing import making_folders
from mtl.config.fields import Config
from mtl.config.types import MOST_DEVICES
from mtl.data.problems import plural
from mtl.evaluation.run_metrics import validation_score
from mtl.evaluation.run_summary import JobRow
from mtl.training import interface, ranks
from mtl.training.jobs import JobRecord, end_of_sweep, job_row, jobs_in, score_in, was_interrupted
from mtl.training.ranks import Group
from mtl.training.study import Study, plan_study

log = logging.getLogger(__name__)
_DIGITS = 9


def main(arguments: Sequence[str]) -> None:
    """Run a command as the only process, or as one of several that a launcher has started."""
    if not ranks.is_launched(os.environ):
        _run(arguments, None)
        return
    group = ranks.join(arguments)
    if group.process.rank:
        with cli.large_imports():
            from mtl.training.run import follow_jobs

        try:
            follow_jobs(group)
        except Terminated:
            sys.exit(cli.TERMINATED)  # the first process says how to resume
        return
    with group.leading():
        _run(arguments, group)


def _run(arguments: Sequence[str], group: Group | None) -> None:
    """Check the whole command line, then run its job or its sweep; a failed job does not stop the others."""
    if any(word.startswith("resume=") for word in arguments):
        _resume(arguments, group)
        return
    command = check_command_line(arguments)
    study = plan_study(command)
    jobs: list[JobRow] = []

    def job(cfg: DictConfig) -> float | None:
        """Run a job and return its validation score, which a sweeper may optimize."""
        with _exits():
            if study is not None or not command.multirun:
                return _job(cfg, study, group)
            jobs.append(_job_of_sweep(cfg, command.swept, group))
            return validation_score(jobs[-1].reports)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors instead of exiting with code 1
    logging.raiseExceptions = False  # otherwise a traceback for each log line on a full disk
    sys.argv[1:] = [*command.arguments, *(study.arguments if study else [])]
    run = hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(job)
    folder = command.folder if study is None else study.folder
    try:
        # before Hydra writes into it: a second run there must not change the first one
        with nullcontext() if folder is None else in_use(folder), making_folders() as made:
            run()
    except (HydraException, ValueError) as error:
        if not jobs or not all(row.error for row in jobs):  # otherwise a sweeper had no score to optimize
            raise _of_hydra(error) from None
    except RuntimeError as error:
        if not type(error).__module__.startswith(("submitit.", "joblib.")):
            raise
        reason = str(error).strip().partition("\n")[0]
        found, expected = f"a job has ended without a result: {reason}", "jobs that run until their end"
        repair = "see its log; jobs that still run go on, and then the same command continues a study (study.name=…)"
        raise TrainingError(Problem("hydra/launcher", found, expected, repair)) from None
    except KeyboardInterrupt:
        if study is not None:
            print("the same command continues the study", file=sys.stderr)
        raise
    if command.multirun and study is None and not jobs:  # a launcher ran them in other processes
        jobs += jobs_in(folder or Path(next(iter(made.values()))), command.swept)
    failed = end_of_sweep(jobs) if study is None else study.end()
    if failed:
        what = "sweep" if study is None else "study"
        log.error("%s of the %s failed: %s", plural(len(failed), "job"), what, ", ".join(failed))
        if study is not None:
            log.info("the same command continues the study")
        sys.exit(cli.FAILED)


def _of_hydra(error: Exception) -> Exception:
    """Return the error behind one that Hydra raised, such as that of a full disk."""
    if isinstance(error, HydraException):
        message = " ".join(str(error).split())
        return ConfigError(Problem("configuration", message, "what Hydra can run"))
    return error.__cause__ if isinstance(error.__cause__, OSError) else error  # logging's, which cannot open its file


def _job_of_sweep(cfg: DictConfig, swept: Iterable[str], group: Group | None) -> JobRow:
    """Do a job of a sweep over some keys and record how it ended; an error ends this job only."""
    settings = HydraConfig.get()
    folder, error, started = Path(settings.runtime.output_dir), "", time.perf_counter()
    try:
        _job(cfg, None, group, brief=True)
    except MtlError as caught:
        error = str(caught)
        log.error("this job failed, the sweep continues\n%s", error)
    JobRecord("failed" if error else "done", "", time.perf_counter() - started, error).write(folder)
    return job_row(int(settings.job.num), settings.overrides.task, swept, folder)


def _resume(arguments: Sequence[str], group: Group | None) -> None:
    """Resume a run in its own folder, with its own configuration."""
    values = dict(word.partition("=")[::2] for word in arguments)
    epochs, devices = values.get("trainer.max_epochs"), values.get("trainer.devices")
    if len(values) < len(arguments) or values.keys() - {"resume", "trainer.max_epochs", "trainer.devices"}:
        expected = "resume=<run folder> or resume=auto, and at most trainer.max_epochs=… and trainer.devices=…: "
        expected += "a run keeps its config.yaml"
        raise ConfigError(Problem("resume", listed(arguments), expected, "start a new run to change something"))
    folder = run_to_resume(values["resume"])
    if is_finished(folder) and epochs is None:
        with in_use(folder):  # also removes the lock of a killed process
            remove_leftovers(folder)
        print(printable(f"the run in {folder} is finished; more epochs: resume={folder} trainer.max_epochs=…"))
        return
    log_into(folder)

    with cli.large_imports():  # torch is imported after the checks
        from mtl.training.reevaluate import read_config
        from mtl.training.run import train

    with in_use(folder):
        config = read_config(folder)
        if epochs is not None:
            config = _with_more_epochs(config, epochs, folder)
        if devices is not None:
            if not devices.isdecimal() or not 0 < int(devices[:_DIGITS]) <= MOST_DEVICES:
                expected = f"a number of processes from 1 to {MOST_DEVICES}"
                raise ConfigError(Problem("trainer.devices", devices, expected))
            config = ranks.for_processes(config, int(devices))
        train(config, folder, choices_of(folder), resume=True, group=group)


def _with_more_epochs(config: Config, text: str, folder: Path) -> Config:
    """Return the configuration of a run with a larger number of epochs."""
    before = config.trainer.max_epochs
    if before is None or not text.isdecimal() or len(text) > _DIGITS or int(text) <= before:
        expected = f"more than {before}, the run's own" if before else "no such key: the run ends by trainer.max_steps"
        raise ConfigError(Problem("trainer.max_epochs", text, expected))
    if not (folder / CHECKPOINTS / "last.ckpt").is_file():
        found = f"{text}, and {folder} has no checkpoint to resume from"
        raise ConfigError(Problem("trainer.max_epochs", found, "a run with checkpoints/last.ckpt"))
    return replace(config, trainer=replace(config.trainer, max_epochs=int(text)))


def _job(cfg: DictConfig, study: Study | None, group: Group | None, *, brief: bool = False) -> float | None:
    """Run a job and return its validation score; None if it has none, or is a job of a study that failed."""
    settings, config = HydraConfig.get(), load(cfg)
    folder = Path(settings.runtime.output_dir)

    with cli.large_imports():  # torch is imported after the checks
        from mtl.training.run import train

    run = partial(train, config, folder, choices_in(settings), brief=brief or study is not None, group=group)
    if study is not None:
        return study.attend(folder, config, run)
    run(resume=brief and was_interrupted(folder, config))  # a launcher starts the job of a sweep again
    return score_in(folder)


@contextmanager
def _exits() -> Iterator[None]:
    """Turn errors into exit codes inside Hydra, which would print a traceback and exit with 1."""
    try:
        yield
    except MtlError as error:
        print(error, file=sys.stderr)
        sys.exit(cli.FAILED)
    except Terminated as stop:
        print(printable(stop), file=sys.stderr)
        sys.exit(cli.TERMINATED)
    except OSError as error:
        print(cli.of_system(error), file=sys.stderr)
        sys.exit(cli.FAILED)


class _Callable(ModuleType):
    """This module: the command's, and from Python the function `mtl.training.interface.train`.

    So ``from mtl import train`` gives the same whether or not the module has been imported before.
    """

    __call__ = staticmethod(interface.train)
    __signature__ = inspect.signature(interface.train)  # inspect would leave out the first argument


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    cli.run(main)
