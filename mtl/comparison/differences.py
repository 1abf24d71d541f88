"""Differences between two scenarios, tested by a paired bootstrap over test rows and seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtl.comparison.bootstrap import (
    MEASURES,
    Floats,
    SeedVariance,
    holm,
    p_value,
    paired_seed_noise,
    pooled_variance,
    resampled,
    seed_noise,
    with_seed_noise,
)
from mtl.comparison.recipes import recipe_of
from mtl.comparison.scenarios import Scenario
from mtl.evaluation.runs import Record

SEED = 20130613
LEVEL = 0.05
"""A difference counts as real when its p-value, adjusted by Holm's method, is below this."""
SCORE = "score"
"""The measure of a scenario as a whole: macro-F1, averaged over the tasks."""
_RESAMPLES_PER_SCENARIO = 80  # keeps the least p-value times the number of tests below `LEVEL`


@dataclass(frozen=True, slots=True)
class Difference:
    """The measure of a scenario minus that of the reference."""

    scenario: str
    reference: str  # name of the scenario that it is compared with
    task: str | None  # None for the score over all tasks
    measure: str  # ``score``, ``accuracy``, ``macro_f1`` or ``rare_f1``
    value: float  # as observed, averaged over the seeds of each scenario
    low: float  # of its 95 % interval
    high: float
    p: float  # two-sided
    p_adjusted: float  # adjusted for all scenarios that are compared with the reference in this measure
    over_seeds: bool  # whether seed noise is included; with one seed of each scenario only that of the test rows is

    @property
    def real(self) -> bool:
        """Whether it is significant at `LEVEL`; see ``over_seeds`` for the noise that is considered."""
        return self.p_adjusted < LEVEL


class PairedBootstrap:
    """The measures of all runs on resampled rows, computed once for each set of rows.

    `SCORE` averages ``tasks``. Many scenarios need more than ``resamples``, for smaller p-values.
    """

    def __init__(
        self, scenarios: Sequence[Scenario], tasks: Sequence[str], rare: Mapping[str, Sequence[str]], resamples: int
    ) -> None:
        self.scenarios = list(scenarios)
        self.tasks = list(tasks)
        self.resamples = max(resamples, _RESAMPLES_PER_SCENARIO * len(scenarios))
        self._variances: dict[tuple[str, ...], SeedVariance | None] = {}  # by measure and tasks
        self._samples: dict[tuple[Record, str, str], Floats] = {}  # by run, task and measure, see `resampled`
        runs_of: dict[tuple[str, str], list[Record]] = defaultdict(list)  # by task and rows
        for run in (run for scenario in scenarios for run in scenario.runs):
            for task, outcomes in run.outcomes.items():
                runs_of[task, outcomes.rows].append(run)
        for (task, rows), runs in runs_of.items():
            predictions = [run.outcomes[task].predictions for run in runs]
            ids = {name: at for at, name in enumerate(sorted(predictions[0].classes))}  # runs may order them otherwise
            labels = np.array([ids[name] for name in predictions[0].labels])
            answers = [np.array([ids[name] for name in of_run.predicted]) for of_run in predictions]
            rare_ids = [at for name, at in ids.items() if name in rare[task]]
            seed = (SEED, int(rows[:8], 16))
            samples = resampled(labels, answers, len(ids), rare_ids, self.resamples, seed)
            for run, values in zip(runs, samples, strict=True):
                self._samples |= {(run, task, measure): sample for measure, sample in values.items()}

    def difference(self, scenario: Scenario, reference: Scenario, task: str | None, measure: str) -> Difference | None:
        """Return ``scenario`` minus ``reference``: in one of `MEASURES` of a task, or without a task in `SCORE`.

        Only runs over rows that both scenarios were tested on take part; None without such rows or without the measure.
        """
        measured, tasks = ("macro_f1", self.tasks) if task is None else (measure, [task])
        rows = {name: _rows(scenario, name) & _rows(reference, name) for name in tasks}
        first, second = (self._runs(side, measured, rows) for side in (scenario, reference))
        if not first or not second:
            return None
        observed, of_reference = _observed(first), _observed(second)
        split_by_seed = len({tuple(run.outcomes[task].rows for task in tasks) for run in first}) > 1
        if split_by_seed and [run.seed for run in first] == [run.seed for run in second]:
            noise = paired_seed_noise(observed - of_reference)
        else:
            noise = seed_noise(observed, of_reference, self._pooled(measured, tasks))
        values = (_mean(first.values()) - _mean(second.values()))[1:]
        if noise is not None and values.any():  # otherwise all their predictions are the same
            values = with_seed_noise(values, noise, SEED)
        value, p = float(observed.mean() - of_reference.mean()), p_value(values)
        low, high = np.percentile(values, [2.5, 97.5]).tolist()
        names = (scenario.name, reference.name)
        return Difference(*names, task, measure, value, low, high, p, p_adjusted=p, over_seeds=noise is not None)

    def _pooled(self, measure: str, tasks: Sequence[str]) -> SeedVariance | None:
        """Return the variance over seeds of all trained scenarios; the others vary with their untrained heads."""
        key = (measure, *tasks)
        if key not in self._variances:
            samples = [
                self._runs(scenario, measure, {task: _rows(scenario, task) for task in tasks})
                for scenario in self.scenarios
                if scenario.runs[0].metrics.cost.trainable_parameters != 0
            ]
            self._variances[key] = pooled_variance(_observed(runs) for runs in samples if runs)
        return self._variances[key]

    def _runs(self, scenario: Scenario, measure: str, rows: Mapping[str, set[str]]) -> dict[Record, Floats]:
        """Return the measure of each run over the rows, averaged over the tasks, ``(1 + R,)``."""
        samples = {}
        for run in scenario.runs:
            tested = [task for task, known in rows.items() if task in run.outcomes and run.outcomes[task].rows in known]
            of_tasks = [self._samples[run, task, measure] for task in tested if (run, task, measure) in self._samples]
            if of_tasks and len(of_tasks) == len(rows):
                samples[run] = _mean(of_tasks)
        return samples


def differences(bootstrap: PairedBootstrap, reference: Scenario) -> list[Difference]:
    """Return the differences of all scenarios from the reference: in `SCORE`, and in each measure of each task."""
    tested = []
    for task, measure in [(None, SCORE), *((task, measure) for task in bootstrap.tasks for measure in MEASURES)]:
        others = [scenario for scenario in bootstrap.scenarios if scenario is not reference]
        tested += _adjusted(bootstrap.difference(scenario, reference, task, measure) for scenario in others)
    return tested


def sharing(bootstrap: PairedBootstrap) -> list[Difference]:
    """Return what each task gains or loses by sharing the encoder: trained with others minus trained alone.

    Compares the scenarios that differ, for the task, in nothing else. All such pairs are one family of tests in each
    measure.
    """
    pairs = [
        (together, alone, task)
        for together in bootstrap.scenarios
        if len(together.tasks) > 1
        for task in together.tasks
        for alone in bootstrap.scenarios
        if alone.runs[0].alone == task and recipe_of(alone.runs[0], task) == recipe_of(together.runs[0], task)
    ]
    tested = []
    for measure in MEASURES:
        tested += _adjusted(bootstrap.difference(together, alone, task, measure) for together, alone, task in pairs)
    return tested


def _adjusted(family: Iterable[Difference | None]) -> list[Difference]:
    known = [difference for difference in family if difference is not None]
    adjusted = holm([difference.p for difference in known])
    return [replace(difference, p_adjusted=p) for difference, p in zip(known, adjusted, strict=True)]


def _rows(scenario: Scenario, task: str) -> set[str]:
    return {run.outcomes[task].rows for run in scenario.runs if task in run.outcomes}


def _observed(runs: Mapping[Record, Floats]) -> Floats:
    return np.array([values[0] for values in runs.values()])


def _mean(values: Iterable[Floats]) -> Floats:
    mean: Floats = np.mean(list(values), axis=0)
    return mean
