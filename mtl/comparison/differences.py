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
_RESAMPLES_PER_SCENARIO = 80  # keeps the least p-value times the number of tests below `LEVEL`


@dataclass(frozen=True, slots=True)
class Difference:
    """The measure of a scenario minus that of the reference."""

    scenario: str
    reference: str  # name of the scenario that it is compared with
    task: str | None  # the task, or None for the score over all tasks
    measure: str  # ``score``, ``accuracy``, ``macro_f1`` or ``rare_f1``
    value: float  # the observed difference, averaged over the seeds of each scenario
    low: float  # the lower end of its 95 % interval
    high: float  # the upper end
    p: float
    p_adjusted: float  # the same, adjusted for all scenarios that are compared with the reference in this measure
    # Whether seed noise is included; with one seed of each scenario only that of the test rows is
    over_seeds: bool = True

    @property
    def real(self) -> bool:
        """Whether it is significant at `LEVEL`; see ``over_seeds`` for the noise that is considered."""
        return self.p_adjusted < LEVEL


@dataclass(frozen=True, slots=True)
class _Sampled:
    """A measure of one run: as observed, and on every resample of its rows."""

    observed: float
    resampled: Floats


@dataclass(frozen=True, slots=True)
class Resampled:
    """A difference with its noise."""

    observed: float  # the observed difference, averaged over the seeds of each scenario
    values: Floats  # differences on resampled rows, with seed noise where it is known
    over_seeds: bool  # whether seed noise is known


class PairedBootstrap:
    """The measures of all runs on resampled rows, computed once for each set of rows.

    Args:
        scenarios: The scenarios to compare.
        rare: The rare classes of each task.
        resamples: The least number of resamples; many scenarios need more, for smaller p-values.
    """

    def __init__(self, scenarios: Sequence[Scenario], rare: Mapping[str, Sequence[str]], resamples: int) -> None:
        self.resamples = max(resamples, _RESAMPLES_PER_SCENARIO * len(scenarios))
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
        samples = resampled(answers, places, self.resamples, (SEED, int(rows[:8], 16)))
        for run, answer, values in zip(runs, answers, samples, strict=True):
            observed = _observed(answer, places)
            for measure in values:
                self._sampled[run, task, measure] = _Sampled(observed[measure], values[measure])

    def difference(
        self, scenario: Scenario, reference: Scenario, measure: str, tasks: Sequence[str]
    ) -> Resampled | None:
        """Return ``scenario`` minus ``reference`` in one of `MEASURES`, averaged over ``tasks``, with its noise.

        Only runs over rows that both scenarios were tested on take part; None without such rows or without the measure.
        """
        rows = {task: _rows(scenario, task) & _rows(reference, task) for task in tasks}
        first, second = (self._runs(one, measure, rows) for one in (scenario, reference))
        if not first or not second:
            return None
        values = _mean(run.resampled for run in first.values()) - _mean(run.resampled for run in second.values())
        one, other = (np.array([run.observed for run in runs.values()]) for runs in (first, second))
        if _split_by_seed(first, tasks) and _seeds(first) == _seeds(second):
            noise = paired_seed_noise(one - other)
        else:
            noise = seed_noise(one, other, self._pooled(measure, tasks))
        if noise is not None and values.any():  # otherwise all their predictions are the same
            values = with_seed_noise(values, noise, SEED)
        return Resampled(float(one.mean() - other.mean()), values, over_seeds=noise is not None)

    def _pooled(self, measure: str, tasks: Sequence[str]) -> SeedVariance | None:
        """Return the variance over seeds of all trained scenarios; the others vary with their untrained heads."""
        key = (measure, *tasks)
        if key not in self._variances:
            trained = [one for one in self._scenarios if one.runs[0].metrics.cost.trainable_parameters != 0]
            sampled = [self._runs(one, measure, {task: _rows(one, task) for task in tasks}) for one in trained]
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
    bootstrap: PairedBootstrap, scenarios: Sequence[Scenario], reference: Scenario, tasks: Sequence[str]
) -> list[Difference]:
    """Return the differences of all scenarios from the reference: in the score, and in each measure of each task.

    Args:
        bootstrap: The measures of all runs.
        scenarios: The scenarios; the reference may be among them.
        reference: The scenario to compare with.
        tasks: The tasks.
    """
    others = [scenario for scenario in scenarios if scenario is not reference]
    wanted: list[tuple[str | None, str]] = [(None, SCORE)]
    wanted += [(task, measure) for task in tasks for measure in MEASURES]
    tested = []
    for task, measure in wanted:
        name, averaged = ("macro_f1", tasks) if task is None else (measure, [task])
        pairs = [(scenario, bootstrap.difference(scenario, reference, name, averaged)) for scenario in others]
        tested += _adjusted(
            [_difference(one.name, reference.name, task, measure, pair) for one, pair in pairs if pair is not None]
        )
    return tested


def sharing(bootstrap: PairedBootstrap, scenarios: Sequence[Scenario]) -> list[Difference]:
    """Return what each task gains or loses by sharing the encoder: trained with others minus trained alone.

    Compares the scenarios that differ, for the task, in nothing else. All such pairs are one family of tests in each
    measure.
    """
    pairs = [
        (together, alone, task)
        for together in scenarios
        if len(together.tasks) > 1
        for task in together.tasks
        for alone in scenarios
        if alone.runs[0].alone == task and recipe_of(alone.runs[0], task) == recipe_of(together.runs[0], task)
    ]
    tested = []
    for measure in MEASURES:
        family = [
            _difference(together.name, alone.name, task, measure, difference)
            for together, alone, task in pairs
            if (difference := bootstrap.difference(together, alone, measure, [task])) is not None
        ]
        tested += _adjusted(family)
    return tested


def _adjusted(family: Sequence[Difference]) -> list[Difference]:
    adjusted = holm([difference.p for difference in family])
    return [replace(difference, p_adjusted=p) for difference, p in zip(family, adjusted, strict=True)]


def _difference(scenario: str, reference: str, task: str | None, measure: str, pair: Resampled) -> Difference:
    low, high = (float(end) for end in np.percentile(pair.values, [2.5, 97.5]))
    p = p_value(pair.values)
    return Difference(scenario, reference, task, measure, pair.observed, low, high, p, p, pair.over_seeds)


def _answers(outcomes: Outcomes) -> Answers:
    return Answers(outcomes.labels, outcomes.predicted, len(outcomes.predictions.classes))


def _observed(answers: Answers, rare: Sequence[int]) -> dict[str, float]:
    counts = class_counts(answers.labels, answers.predicted, answers.classes)
    hits, support, predicted = (values.astype(np.float64) for values in counts)
    return {name: float(value) for name, value in measures(hits, support, predicted, rare).items()}


def _rows(scenario: Scenario, task: str) -> set[str]:
    return {run.outcomes[task].rows for run in scenario.runs if task in run.outcomes}


def _mean(values: Iterable[Floats]) -> Floats:
    mean: Floats = np.mean(list(values), axis=0)
    return mean


def _seeds(runs: Iterable[Record]) -> list[int | None]:
    return [run.seed for run in runs]


def _split_by_seed(runs: Iterable[Record], tasks: Sequence[str]) -> bool:
    """Return whether the runs of a scenario were tested on different rows."""
    return len({tuple(run.outcomes[task].rows for task in tasks) for run in runs}) > 1
