"""Differences between two scenarios, tested by a paired bootstrap over test rows and seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtl.comparison.bootstrap import (
    MEASURES,
    Answers,
    Floats,
    SeedVariance,
    holm,
    measures,
    p_value,
    paired_seed_noise,
    pooled_variance,
    resampled,
    seed_noise,
    with_seed_noise,
)
from mtl.comparison.recipes import recipe_of
from mtl.comparison.scenarios import Scenario
from mtl.evaluation.counts import class_counts
from mtl.evaluation.runs import Outcomes, Record

SEED = 20130613
LEVEL = 0.05
"""A difference counts as real when its p-value, adjusted by Holm's method, is below this."""
SCORE = "score"
"""The measure of a scenario as a whole: macro-F1, averaged over the tasks."""
_TESTS_PER_SCENARIO = 80  # resamples for each: the least p-value times the number of tests then stays below `LEVEL`


@dataclass(frozen=True, slots=True)
class Difference:
    """A scenario's figure minus that of the reference.

    Attributes:
        scenario: Name of the scenario.
        reference: Name of the scenario that it is held against.
        task: The task, or None for the score over all tasks.
        measure: ``score``, ``accuracy``, ``macro_f1`` or ``rare_f1``.
        value: The difference, on the rows as they are, averaged over the seeds of each.
        low: The lower end of its 95 % interval.
        high: The upper end.
        p: The two-sided p-value.
        p_adjusted: The same, adjusted for all scenarios that are held against the reference in this measure.
        over_seeds: Whether the noise of the seeds is in it; with one seed of each scenario only that of the test rows.
    """

    scenario: str
    reference: str
    task: str | None
    measure: str
    value: float
    low: float
    high: float
    p: float
    p_adjusted: float
    over_seeds: bool = True

    @property
    def real(self) -> bool:
        """Whether it is larger than the noise that is in it, see ``over_seeds``."""
        return self.p_adjusted < LEVEL


@dataclass(frozen=True, slots=True)
class _Sampled:
    """A measure of one run: as observed, and on every resample of its rows."""

    observed: float
    resampled: Floats


@dataclass(frozen=True, slots=True)
class Resampled:
    """A difference with its noise.

    Attributes:
        observed: On the rows as they are, averaged over the seeds of each scenario.
        values: On resampled rows, with the noise of the seeds where it is known.
        over_seeds: Whether it is known.
    """

    observed: float
    values: Floats
    over_seeds: bool


class Bootstrap:
    """The measures of all runs on resampled rows, computed once for each set of rows.

    Args:
        scenarios: The scenarios to be held against each other.
        rare: The rare classes of each task.
        resamples: At least so many; more where many scenarios need smaller p-values.
    """

    def __init__(self, scenarios: Sequence[Scenario], rare: Mapping[str, Sequence[str]], resamples: int) -> None:
        self.resamples = max(resamples, _TESTS_PER_SCENARIO * len(scenarios))
        self._scenarios = list(scenarios)
        self._variances: dict[tuple[str, ...], SeedVariance | None] = {}  # by measure and tasks
        self._sampled: dict[tuple[Record, str, str], _Sampled] = {}  # by run, task and measure
        blocks: dict[tuple[str, str], list[Record]] = defaultdict(list)
        for scenario in scenarios:
            for run in scenario.runs:
                for task, outcomes in run.outcomes.items():
                    blocks[task, outcomes.rows].append(run)
        for (task, rows), runs in blocks.items():
            self._sample(task, rows, runs, rare[task])

    def _sample(self, task: str, rows: str, runs: Sequence[Record], rare: Sequence[str]) -> None:
        answers = [_answers(run.outcomes[task]) for run in runs]
        classes = sorted(runs[0].outcomes[task].predictions.classes)
        places = [at for at, name in enumerate(classes) if name in rare]
        found = resampled(answers, places, self.resamples, (SEED, int(rows[:8], 16)))
        for run, each, values in zip(runs, answers, found, strict=True):
            observed = _observed(each, places)
            for measure in values:
                self._sampled[run, task, measure] = _Sampled(observed[measure], values[measure])

    def difference(
        self, scenario: Scenario, reference: Scenario, measure: str, tasks: Sequence[str]
    ) -> Resampled | None:
        """Return a difference, averaged over ``tasks``, with its noise; None: no common test rows, or no such measure.

        Only runs over rows that both scenarios were tested on take part.

        Args:
            scenario: Whose figure.
            reference: Whose figure is taken off.
            measure: One of `MEASURES`.
            tasks: The tasks to average over.
        """
        rows = {task: _rows(scenario, task) & _rows(reference, task) for task in tasks}
        first, second = (self._runs(each, measure, rows) for each in (scenario, reference))
        if not first or not second:
            return None
        values = _mean(run.resampled for run in first.values()) - _mean(run.resampled for run in second.values())
        one, other = (np.array([run.observed for run in runs.values()]) for runs in (first, second))
        if _split_by_seed(first, tasks) and _seeds(first) == _seeds(second):
            noise = paired_seed_noise(one - other)
        else:
            noise = seed_noise(one, other, self._pooled(measure, tasks))
        if noise is not None and values.any():  # else they predict the same, whatever the seed
            values = with_seed_noise(values, noise, SEED)
        return Resampled(float(one.mean() - other.mean()), values, over_seeds=noise is not None)

    def _pooled(self, measure: str, tasks: Sequence[str]) -> SeedVariance | None:
        """Return the variance over seeds of all scenarios that learn; the others vary with their untrained heads."""
        key = (measure, *tasks)
        if key not in self._variances:
            learning = [each for each in self._scenarios if each.runs[0].metrics.cost.trainable_parameters != 0]
            sampled = [self._runs(each, measure, {task: _rows(each, task) for task in tasks}) for each in learning]
            self._variances[key] = pooled_variance(
                np.array([run.observed for run in runs.values()]) for runs in sampled if runs
            )
        return self._variances[key]

    def _runs(self, scenario: Scenario, measure: str, rows: Mapping[str, set[str]]) -> dict[Record, _Sampled]:
        """Return the measure of each run over the rows, averaged over the tasks."""
        sampled = {}
        for run in scenario.runs:
            keys = [
                (run, task, measure)
                for task, known in rows.items()
                if task in run.outcomes and run.outcomes[task].rows in known
            ]
            parts = [self._sampled[key] for key in keys if key in self._sampled]
            if parts and len(parts) == len(rows):
                sampled[run] = _Sampled(
                    float(np.mean([part.observed for part in parts])), _mean(part.resampled for part in parts)
                )
        return sampled


def differences(
    bootstrap: Bootstrap, scenarios: Sequence[Scenario], reference: Scenario, tasks: Sequence[str]
) -> list[Difference]:
    """Return what each scenario has more or less than the reference: the score, and each measure of each task.

    Args:
        bootstrap: Of all runs.
        scenarios: The scenarios; the reference may be among them.
        reference: What they are held against.
        tasks: The tasks.
    """
    others = [scenario for scenario in scenarios if scenario is not reference]
    wanted: list[tuple[str | None, str]] = [(None, SCORE)]
    wanted += [(task, measure) for task in tasks for measure in MEASURES]
    found = []
    for task, measure in wanted:
        family = []
        for scenario in others:
            pair = bootstrap.difference(
                scenario, reference, "macro_f1" if task is None else measure, tasks if task is None else [task]
            )
            if pair is not None:
                family.append(_difference(scenario.name, reference.name, task, measure, pair))
        found += _adjusted(family)
    return found


def sharing(bootstrap: Bootstrap, scenarios: Sequence[Scenario]) -> list[Difference]:
    """Return what each task gains or loses by sharing the encoder: trained with others, minus trained alone.

    Scenarios are held against each other that are the same for the task in all but that. All such pairs are one family
    of tests in each measure.

    Args:
        bootstrap: Of all runs.
        scenarios: The scenarios.
    """
    pairs = [
        (together, alone, task)
        for together in scenarios
        if len(together.tasks) > 1
        for task in together.tasks
        for alone in scenarios
        if alone.runs[0].alone == task and recipe_of(alone.runs[0], task) == recipe_of(together.runs[0], task)
    ]
    found = []
    for measure in MEASURES:
        family = [
            _difference(together.name, alone.name, task, measure, difference)
            for together, alone, task in pairs
            if (difference := bootstrap.difference(together, alone, measure, [task])) is not None
        ]
        found += _adjusted(family)
    return found


def _adjusted(family: Sequence[Difference]) -> list[Difference]:
    adjusted = holm([each.p for each in family])
    return [replace(each, p_adjusted=p) for each, p in zip(family, adjusted, strict=True)]


def _difference(scenario: str, reference: str, task: str | None, measure: str, pair: Resampled) -> Difference:
    low, high = (float(end) for end in np.percentile(pair.values, [2.5, 97.5]))
    p = p_value(pair.values)
    return Difference(scenario, reference, task, measure, pair.observed, low, high, p, p, pair.over_seeds)


def _answers(outcomes: Outcomes) -> Answers:
    return Answers(outcomes.labels, outcomes.predicted, len(outcomes.predictions.classes))


def _observed(answers: Answers, rare: Sequence[int]) -> dict[str, float]:
    """Return the measures on the rows as they are."""
    counts = class_counts(answers.labels, answers.predicted, answers.classes)
    hits, support, predicted = (each.astype(np.float64) for each in counts)
    return {name: float(value) for name, value in measures(hits, support, predicted, rare).items()}


def _rows(scenario: Scenario, task: str) -> set[str]:
    return {run.outcomes[task].rows for run in scenario.runs if task in run.outcomes}


def _mean(values: Iterable[Floats]) -> Floats:
    """Return the mean of arrays of one shape."""
    mean: Floats = np.mean(list(values), axis=0)
    return mean


def _seeds(runs: Iterable[Record]) -> list[int | None]:
    return [run.seed for run in runs]


def _split_by_seed(runs: Iterable[Record], tasks: Sequence[str]) -> bool:
    """Return whether the runs of a scenario were tested on different rows."""
    return len({tuple(run.outcomes[task].rows for task in tasks) for run in runs}) > 1
