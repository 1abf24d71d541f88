"""A search for good settings: trials, drawn by Optuna, each a run in a folder of its own.

The folder of a search holds ``journal.log``, Optuna's record of all trials, which several processes share; the runs in
``trials/<identity>``; and what `mtl.tuning.outcome` writes at the end. A trial is drawn under a lock, and its folder is
locked while it runs, which tells whether its process is alive: the trial of a process that died is repeated, from its
last checkpoint. Trials with the same configuration have the same folder and run once.
"""

from __future__ import annotations

import gc
import shutil
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from mtl.base.errors import ConfigError, DataError, MtlError, Problem, printable
from mtl.base.formatting import duration
from mtl.base.run_folder import CHECKPOINTS, METRICS, in_use, is_in_use
from mtl.config.fields import Config
from mtl.evaluation.run_metrics import read_metrics, validation_score
from mtl.training.callbacks import StoppedEarly
from mtl.training.interface import logging_into
from mtl.training.jobs import JobRecord, identity_of, read_record, was_interrupted
from mtl.tuning.space import Choices, IntRange, SearchSpace, Value, holds

JOURNAL = "journal.log"
_NAME = "mtl"
_STARTED = 20
"""The most trials of an earlier search that a new one starts with."""
_DRAWS = 100
"""After so many draws of settings that were tried before, there are hardly any others."""
_FAILURES = 3
"""A search ends when so many trials have failed and none has succeeded."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial that is about to run, its folder locked."""

    drawn: optuna.Trial
    config: Config
    choices: dict[str, str]
    folder: Path


def settings_for_trials(config: Config) -> Config:
    """Return the configuration of a trial: as it is trained, without what only costs time, and without test rows."""
    return replace(
        config,
        evaluation=replace(config.evaluation, error_analysis=False, figures=False, test=False),
        retention=replace(config.retention, path=None),
        callbacks=replace(config.callbacks, gradients=None, progress=False),
        logger=replace(config.logger, kinds=[]),
    )


class Search:
    """A search in its folder.

    With ``costs`` the time of training is a second objective, and no trial is stopped early. With ``prunes`` those are
    that are worse than the median of the others after as much training.
    """

    def __init__(self, folder: Path, space: SearchSpace, *, costs: bool = False, prunes: bool = True) -> None:
        self.folder = folder
        self.space = space
        self.costs = costs
        self._prunes = prunes and not costs
        assert space.base.first is not None, "a space has jobs"  # noqa: S101
        self.base: Config = space.base.first
        optuna.logging.set_verbosity(optuna.logging.WARNING)

    @cached_property
    def study(self) -> optuna.Study:
        """Optuna's record of all trials, in the folder that `begin` has made; a damaged one is a `DataError`."""
        return optuna.create_study(
            storage=_storage(self.folder / JOURNAL),
            study_name=_NAME,
            directions=["maximize", "minimize"] if self.costs else ["maximize"],
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5) if self._prunes else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )

    def begin(self, identity: str, earlier: Path | None) -> None:
        """Begin or continue the search, whose trials have in common what ``identity`` is a checksum of.

        The best trials of the search in the folder ``earlier`` are run first; those of equal runs are not repeated.

        Raises:
            MtlError: A journal is damaged, or that of another search.
        """
        best = [] if earlier is None else list(_best_of(earlier, self.space))
        with self._lock():
            known = self.study.user_attrs.get("identity")
            if known not in (None, identity):
                found = f"{self.folder}, with the search of another space, configuration, data or version"
                raise ConfigError(Problem("output", found, "a new folder, or that of this search"))
            if known is None:
                self.study.set_user_attr("identity", identity)
                self.study.set_user_attr("earlier", None if earlier is None else str(earlier.absolute()))
                self.study.enqueue_trial(dict(self.space.start))  # what there is without tuning
                for parameters in best:
                    self.study.enqueue_trial(parameters, skip_if_exists=True)

    def run(self, trials: int | None, seconds: float | None = None) -> None:
        """Run trials until there are as many, those of earlier commands and other processes included, or for some time.

        Raises:
            MtlError: The first trials have all failed.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while end is None or time.monotonic() < end:
            with ExitStack() as held:
                trial = self._draw(trials, held)
                if trial is None:
                    return
                self._run(trial)
            gc.collect()  # the network of the trial
            print(printable(self._line(self.study.trials[trial.drawn.number])), flush=True)
            self._check_failures()

    def ended(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials that ended, in one of the states if any are given; not killed and repeated ones."""
        trials = self.study.get_trials(states=states or (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
        own = [trial for trial in trials if "repeats" not in trial.user_attrs]
        return [trial for trial in own if trial.state != TrialState.FAIL or "error" in trial.user_attrs]

    @property
    def ranked(self) -> list[FrozenTrial]:
        """The completed trials, the best by validation first, of equal ones the earlier."""
        return sorted(self.ended(TrialState.COMPLETE), key=lambda trial: -trial.values[0])

    @property
    def untuned(self) -> FrozenTrial | None:
        """The completed trial without tuning, if the space holds all of its values."""
        identity = _identity(self.base)
        return next((trial for trial in self.ranked if trial.user_attrs["identity"] == identity), None)

    @property
    def running(self) -> list[FrozenTrial]:
        """The trials that other processes are running."""
        unfinished = self.study.get_trials(states=(TrialState.RUNNING,))
        return [t for t in unfinished if "identity" in t.user_attrs and is_in_use(self.folder_of(t))]

    def folder_of(self, trial: FrozenTrial | optuna.Trial) -> Path:
        """Return the run folder of a trial."""
        return self.folder.absolute() / "trials" / str(trial.user_attrs["identity"])

    def _lock(self) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / ".drawing")

    def _draw(self, most: int | None, held: ExitStack) -> Trial | None:
        """Return the next trial to run, its folder locked by ``held``; None if there is none."""
        with self._lock():
            alive = self.running
            for killed in self.study.get_trials(states=(TrialState.RUNNING,)):
                if killed.number not in {trial.number for trial in alive}:
                    self.study.tell(killed.number, state=TrialState.FAIL)
                    self.study.enqueue_trial(killed.params)
            if most is not None and len(self.ended()) + len(alive) >= most:
                return None
            tried = [*self.ended(), *alive]
            known = {trial.user_attrs.get("identity"): trial.number for trial in tried}
            same = {repr(sorted(trial.params.items())): trial.number for trial in tried}
            for _ in range(_DRAWS):
                number = len(self.study.get_trials(deepcopy=False))
                self.study.sampler = optuna.samplers.TPESampler(seed=(self.base.seed + 7919 * number) % 2**32)
                drawn = self.study.ask(self._distributions)
                repeated = same.get(repr(sorted(drawn.params.items())))
                if repeated is None:
                    try:
                        config, choices = self.space.command.job(self.space.values(drawn.params))
                    except ConfigError as error:
                        self._fail(drawn, str(error))
                        continue
                    drawn.set_user_attr("identity", _identity(config))
                    repeated = known.get(_identity(config))
                if repeated is not None:
                    drawn.set_user_attr("repeats", repeated)
                    self.study.tell(drawn, state=TrialState.FAIL if self.costs else TrialState.PRUNED)
                    continue
                folder = self.folder_of(drawn)
                held.enter_context(in_use(folder))
                return Trial(drawn, settings_for_trials(config), choices, folder)
            print(f"no settings were drawn in {_DRAWS} attempts that had not been tried before: the search ends")
            return None

    @cached_property
    def _distributions(self) -> dict[str, BaseDistribution]:
        def made(values: Any) -> BaseDistribution:
            if isinstance(values, Choices):
                return CategoricalDistribution(values.choices)
            kind = IntDistribution if isinstance(values, IntRange) else FloatDistribution
            return kind(values.low, values.high, log=values.log, step=values.step)

        return {key: made(values) for key, values in self.space.distributions.items()}

    def _run(self, trial: Trial) -> None:
        """Run a trial, or take the score of an equal run, and tell Optuna how it ended."""
        earlier = self.study.user_attrs.get("earlier")
        folders = [trial.folder, *([Path(earlier) / "trials" / trial.folder.name] if earlier else [])]
        finished = next((folder for folder in folders if is_done(folder, folder.name)), None)
        started = time.perf_counter()
        try:
            if finished is None:
                self._train(trial)
            metrics = read_metrics((finished or trial.folder) / METRICS)
            score, seconds = validation_score(metrics.tasks), metrics.cost.total_seconds or 0.0
            if score is None:
                found = "no macro-F1 of all tasks on validation rows"
                raise DataError(Problem("data", found, "validation rows of each task", "give some of each task"))
        except StoppedEarly:
            self.study.tell(trial.drawn, state=TrialState.PRUNED)
        except Exception as error:  # noqa: BLE001 - the other trials can still run
            if not isinstance(error, MtlError):
                with (trial.folder / "train.log").open("a", encoding="utf-8") as log:
                    log.write(traceback.format_exc())
            self._fail(trial.drawn, str(error) if isinstance(error, MtlError) else f"{type(error).__name__}: {error}")
        else:
            if finished is None:
                JobRecord("done", trial.folder.name, time.perf_counter() - started).write(trial.folder)
            trial.drawn.set_user_attr("seconds", seconds)
            self.study.tell(trial.drawn, [score, seconds] if self.costs else score)
        for name in ("model", CHECKPOINTS):  # as large as the encoder; the best settings are trained again
            shutil.rmtree(trial.folder / name, ignore_errors=True)

    def _train(self, trial: Trial) -> None:
        from mtl.training.run import train

        def stops(tenth: int, score: float) -> bool:
            trial.drawn.report(score, tenth)
            return trial.drawn.should_prune()

        resume = was_interrupted(trial.folder, trial.config)
        with logging_into(trial.folder, shown=False):
            stops_early = stops if self._prunes else None
            train(trial.config, trial.folder, trial.choices, resume=resume, stops_early=stops_early)

    def _fail(self, trial: optuna.Trial, error: str) -> None:
        trial.set_user_attr("error", error)
        self.study.tell(trial, state=TrialState.FAIL)

    def _line(self, trial: FrozenTrial) -> str:
        """Return what a trial came to, in a line."""
        ended, best = len(self.ended()), self.ranked
        if trial.state == TrialState.COMPLETE:
            result = f"{trial.values[0]:.4f} ({duration(trial.user_attrs['seconds'])} with an empty cache)"
        elif trial.state == TrialState.PRUNED:
            result = "stopped early"
        else:
            result = f"failed ({' '.join(trial.user_attrs['error'].split())})"
        leader = f", best {best[0].values[0]:.4f} in trial {best[0].number}" if best else ""
        return f"trial {trial.number} ({ended} ended): {result}{leader}; {settings_of(trial)}"

    def _check_failures(self) -> None:
        failed = self.ended(TrialState.FAIL)
        if len(failed) == len(self.ended()) == _FAILURES:
            errors = list(dict.fromkeys(trial.user_attrs["error"] for trial in failed))
            found = f"the first {_FAILURES} trials failed: {' '.join(errors[0].split())}"
            raise MtlError(Problem("trials", found, "trials that run", "repair what they name, then start again"))


def _identity(config: Config) -> str:
    """Return a checksum of what the score of a trial depends on: the name of its folder."""
    return identity_of(settings_for_trials(config))[:12]


def shown(value: Value) -> str:
    """Return a value of a setting for a reader."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Return the last part of each key, or the whole key where several have the same one."""
    lasts = [key.rpartition(".")[2] for key in keys]
    return {key: last if lasts.count(last) == 1 else key for key, last in zip(keys, lasts, strict=True)}


def settings_of(trial: FrozenTrial) -> str:
    """Return the values of a trial's tuned keys in a line."""
    return ", ".join(f"{name}={shown(trial.params[key])}" for key, name in short_names(trial.params).items())


def is_done(folder: Path, identity: str) -> bool:
    """Whether a folder holds the finished run of a configuration."""
    record = read_record(folder)
    return record is not None and (record.status, record.identity) == ("done", identity)


def _storage(path: Path) -> optuna.storages.JournalStorage:
    """Return the storage in a journal, without a last line that a crash has cut off."""
    if path.is_file() and not path.read_bytes().endswith(b"\n"):
        lock = JournalFileSymlinkLock(str(path))  # of Optuna, for another process that writes
        lock.acquire()
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
        lock.release()
    try:
        return optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        found = f"a damaged journal: {type(error).__name__}: {error}"
        raise DataError(
            Problem(str(path), found, "the journal of a search", "start again with another output=")
        ) from None


def _best_of(earlier: Path, space: SearchSpace) -> Iterator[dict[str, Value]]:
    """Yield the settings of the best trials of another search, as far as the space holds them."""
    if not (earlier / JOURNAL).is_file():
        raise DataError(
            Problem(str(earlier), f"no {JOURNAL} in it", "the folder of a search", "start=outputs/tuning/…")
        )
    study = optuna.load_study(study_name=_NAME, storage=_storage(earlier / JOURNAL))
    trials = sorted(study.get_trials(states=(TrialState.COMPLETE,)), key=lambda trial: -trial.values[0])
    for trial in trials[:_STARTED]:
        yield {
            key: value
            for key, value in trial.params.items()
            if key in space.distributions and holds(space.distributions[key], value)
        }
