"""The whole comparison: read runs, group them into scenarios, rank and compare them, recommend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mtl.base.errors import DataError, MtlError, Problem, listed
from mtl.comparison.differences import SCORE, Difference, PairedBootstrap, differences, sharing
from mtl.comparison.scenario_metrics import Figures, rare_classes, summarize
from mtl.comparison.scenarios import Scenario, scenarios
from mtl.evaluation.runs import Record, Unfinished, find, read_record

RankedBy = Literal["validation", "test"]


@dataclass(frozen=True)
class Comparison:
    """The result of comparing scenarios."""

    rows: Sequence[Figures]  # the best first, see ``ranked_by``
    tasks: Sequence[str]  # the tasks that the score averages
    rare_classes: Mapping[str, Sequence[str]]  # of each task
    ranked_by: RankedBy  # ``validation``, or ``test`` where some run has no validation metrics
    best: Figures
    cheapest: Figures  # the scenario with the shortest training, of those that are trained
    # The best of those with the fewest training rows; None where all have equally many, or nothing is trained on the
    # fewest
    best_with_fewest_rows: Figures | None
    differences: Sequence[Difference]  # those of all scenarios from these three
    resamples: int
    unfinished: Sequence[Unfinished]  # jobs without metrics
    unreadable: Sequence[Problem]  # problems of files that could not be read; their runs are left out
    notes: Sequence[str]
    sharing: Sequence[Difference]  # what each task gains by sharing the encoder: trained with others minus alone

    def row(self, name: str) -> Figures:
        """Return the metrics of a scenario."""
        return next(row for row in self.rows if row.name == name)

    def difference(
        self, scenario: str, reference: str, task: str | None = None, measure: str = SCORE
    ) -> Difference | None:
        """Return the measure of ``scenario`` minus that of ``reference``; None if it was not computed."""
        wanted = (scenario, reference, task, measure)
        return next((d for d in self.differences if (d.scenario, d.reference, d.task, d.measure) == wanted), None)


def compare(folders: Sequence[str | Path], resamples: int = 2000) -> Comparison:
    """Compare all runs at or under some folders, by a bootstrap of at least so many resamples.

    Raises:
        DataError: There is no run, none can be read, or no two scenarios were tested on the same rows.
    """
    finished, unfinished = find(folders)
    records, unreadable = _read(finished)
    if not records:
        raise DataError(unreadable)
    candidates, repeated = scenarios(records)
    chosen, left_out = _comparable(candidates)
    all_tasks = list(dict.fromkeys(task for scenario in chosen for task in scenario.tasks))
    runs = [run for scenario in chosen for run in scenario.runs]
    rare = {task: rare_classes(task, [run for run in runs if task in run.outcomes]) for task in all_tasks}
    tasks = max((scenario.tasks for scenario in chosen), key=len)
    rows, ranked_by = _ranked([summarize(scenario, tasks, rare) for scenario in chosen])
    ranked = [row for row in rows if row.score]
    best = ranked[0]
    cheapest = min((row for row in ranked if row.learns), key=lambda row: row.cost, default=best)
    fewest = _best_with_fewest_rows(ranked)
    bootstrap = PairedBootstrap([row.scenario for row in rows], tasks, rare, resamples)
    references = {row.name: row.scenario for row in (best, cheapest, fewest) if row is not None}.values()
    return Comparison(
        rows=rows,
        tasks=tasks,
        rare_classes=rare,
        ranked_by=ranked_by,
        best=best,
        cheapest=cheapest,
        best_with_fewest_rows=fewest,
        differences=[difference for reference in references for difference in differences(bootstrap, reference)],
        resamples=bootstrap.resamples,
        unfinished=unfinished,
        unreadable=unreadable,
        notes=[*repeated, *left_out],
        sharing=sharing(bootstrap),
    )


def _ranked(rows: Sequence[Figures]) -> tuple[list[Figures], RankedBy]:
    """Return the scenarios from the best to the worst, and the kind of score; of equal ones the cheaper is first.

    They are ranked by validation, so that the test score of the best one is unbiased.
    """
    ranked_by: RankedBy = "validation" if all(row.validation for row in rows if row.score) else "test"

    def key(row: Figures) -> tuple[bool, float, float]:
        return row.score is None, -ranking_score(row, ranked_by), row.cost

    return sorted(rows, key=key), ranked_by


def ranking_score(row: Figures, ranked_by: RankedBy) -> float:
    """Return the score by which a scenario is ranked."""
    score = row.validation if ranked_by == "validation" else row.score
    return float("-inf") if score is None else score.mean


def _best_with_fewest_rows(ranked: Sequence[Figures]) -> Figures | None:
    sizes = {row.scenario.size for row in ranked if row.scenario.size is not None}
    if len(sizes) < 2:
        return None
    return next((row for row in ranked if row.scenario.size == min(sizes) and row.learns), None)


def _read(folders: Sequence[Path]) -> tuple[list[Record], list[Problem]]:
    records: list[Record] = []
    problems: list[Problem] = []
    for folder in folders:
        try:
            records.append(read_record(folder))
        except MtlError as error:
            problems += error.problems
    return records, problems


def _comparable(candidates: Sequence[Scenario]) -> tuple[list[Scenario], list[str]]:
    """Return the largest group of scenarios that share test rows, and notes on the others.

    Raises:
        DataError: There are several scenarios, and no two share test rows.
    """
    groups: list[tuple[set[tuple[str, str]], list[Scenario]]] = []
    for scenario in candidates:
        rows = {(task, outcomes.rows) for run in scenario.runs for task, outcomes in run.outcomes.items()}
        members = [scenario]
        for group in [other for other in groups if other[0] & rows]:
            groups.remove(group)
            rows, members = rows | group[0], group[1] + members
        groups.append((rows, members))
    chosen = max((members for _, members in groups), key=len)
    if len(chosen) == 1 and len(candidates) > 1:
        raise DataError([_alone(scenario) for scenario in candidates])
    others = [scenario for scenario in candidates if scenario not in chosen]
    return chosen, [f"left out: {scenario.name} was tested on other rows ({_where(scenario)})" for scenario in others]


def _alone(scenario: Scenario) -> Problem:
    counts = ", ".join(f"{task} {len(outcomes.predictions):,}" for task, outcomes in scenario.runs[0].outcomes.items())
    found = f"scenario {scenario.name}, tested on rows of its own ({counts})"
    expected = "at least two scenarios tested on the same rows in the same order"
    repair = "give every run the same data files, or the same seed to split by"
    return Problem(_where(scenario), found, expected, repair)


def _where(scenario: Scenario) -> str:
    return listed((str(run.folder) for run in scenario.runs), most=3)
