"""The whole comparison: read runs, group them into scenarios, rank and compare them, recommend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mtl.base.errors import DataError, MtlError, Problem, listed
from mtl.comparison.differences import SCORE, Bootstrap, Difference, differences, sharing
from mtl.comparison.scenario_metrics import Figures, figures, rare_classes
from mtl.comparison.scenarios import Scenario, scenarios
from mtl.evaluation.runs import Record, Unfinished, find, read_record

RESAMPLES = 2000
RankedBy = Literal["validation", "test"]


@dataclass(frozen=True)
class Comparison:
    """Scenarios held against each other.

    Attributes:
        rows: The figures of each scenario, the best first: by validation score, see ``ranked_by``.
        tasks: The tasks that the score goes over.
        rare: The rare classes of each task.
        ranked_by: ``validation``; ``test`` where some run has no validation figures.
        best: The scenario that ranks first.
        cheapest: The scenario that trains in the shortest time, of those that learn.
        best_with_fewest_rows: The best of those with the fewest training rows; None where all have equally many, or
            nothing learns from the fewest.
        differences: What each scenario has more or less than these three.
        resamples: How many resamples the bootstrap took.
        unfinished: Jobs without figures.
        unreadable: What could not be read; the runs that it belongs to are left out.
        notes: What a reader must know besides.
        sharing: What each task gains or loses by sharing the encoder: the scenario with others minus that alone.
    """

    rows: Sequence[Figures]
    tasks: Sequence[str]
    rare: Mapping[str, Sequence[str]]
    ranked_by: RankedBy
    best: Figures
    cheapest: Figures
    best_with_fewest_rows: Figures | None
    differences: Sequence[Difference]
    resamples: int
    unfinished: Sequence[Unfinished] = ()
    unreadable: Sequence[Problem] = ()
    notes: Sequence[str] = ()
    sharing: Sequence[Difference] = ()

    def row(self, name: str) -> Figures:
        """Return the figures of a scenario."""
        return next(each for each in self.rows if each.name == name)

    def ranking_score(self, row: Figures) -> float:
        """Return the score by which a scenario is ranked, see ``ranked_by``."""
        return _ranking_score(row, self.ranked_by)

    def difference(
        self, scenario: str, reference: str, task: str | None = None, measure: str = SCORE
    ) -> Difference | None:
        """Return what ``scenario`` has more or less than ``reference``, or None if that was not computed."""
        wanted = (scenario, reference, task, measure)
        found = (
            each for each in self.differences if (each.scenario, each.reference, each.task, each.measure) == wanted
        )
        return next(found, None)


def compare(folders: Sequence[str | Path], resamples: int = RESAMPLES) -> Comparison:
    """Compare all runs at or under some folders.

    Args:
        folders: Run folders, multirun folders, or folders above them.
        resamples: Of the bootstrap, at least.

    Raises:
        DataError: There is no run, none can be read, or no two scenarios were tested on the same rows.
    """
    runs, unfinished = find(folders)
    records, unreadable = _read(runs)
    if not records:
        raise DataError(unreadable)
    found, notes = scenarios(records)
    chosen, left_out = _comparable(found)
    return compared(chosen, resamples, unfinished, unreadable, [*notes, *left_out])


def compared(
    chosen: Sequence[Scenario],
    resamples: int = RESAMPLES,
    unfinished: Sequence[Unfinished] = (),
    unreadable: Sequence[Problem] = (),
    notes: Sequence[str] = (),
) -> Comparison:
    """Compare scenarios over the same rows.

    Args:
        chosen: The scenarios.
        resamples: Of the bootstrap, at least.
        unfinished: Jobs without figures, to be shown.
        unreadable: What could not be read, to be shown.
        notes: What a reader must know besides.
    """
    knowing = {task: [run for each in chosen for run in each.runs if task in run.outcomes] for task in _all(chosen)}
    rare = {task: rare_classes(task, runs) for task, runs in knowing.items()}
    tasks = max((scenario.tasks for scenario in chosen), key=len)
    rows, ranked_by = _ranked([figures(scenario, tasks, rare) for scenario in chosen])
    ranked = [row for row in rows if row.score]
    best = ranked[0]
    cheapest = min((row for row in ranked if row.learns), key=_cost, default=best)
    fewest = _best_with_fewest_rows(ranked)
    ordered = [row.scenario for row in rows]
    bootstrap = Bootstrap(ordered, rare, resamples)
    references = {row.name: row.scenario for row in (best, cheapest, fewest) if row is not None}.values()
    tested = [each for row in references for each in differences(bootstrap, ordered, row, tasks)]
    return Comparison(
        rows=rows,
        tasks=tasks,
        rare=rare,
        ranked_by=ranked_by,
        best=best,
        cheapest=cheapest,
        best_with_fewest_rows=fewest,
        differences=tested,
        resamples=bootstrap.resamples,
        unfinished=unfinished,
        unreadable=unreadable,
        notes=list(notes),
        sharing=sharing(bootstrap, ordered),
    )


def _ranked(rows: Sequence[Figures]) -> tuple[list[Figures], RankedBy]:
    """Return the scenarios from the best to the worst, and by which score; of equal ones the cheaper is first.

    They are ranked by validation, so that the test rows, which choose nothing, give an unbiased score of the best.
    """
    ranked_by: RankedBy = "validation" if all(row.validation for row in rows if row.score) else "test"

    def key(row: Figures) -> tuple[bool, float, float]:
        return row.score is None, -_ranking_score(row, ranked_by), _cost(row)

    return sorted(rows, key=key), ranked_by


def _ranking_score(row: Figures, ranked_by: RankedBy) -> float:
    score = row.validation if ranked_by == "validation" else row.score
    return float("-inf") if score is None else score.mean


def _cost(row: Figures) -> float:
    return float("inf") if row.seconds is None else row.seconds


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


def _all(chosen: Sequence[Scenario]) -> list[str]:
    return list(dict.fromkeys(task for scenario in chosen for task in scenario.tasks))


def _comparable(found: Sequence[Scenario]) -> tuple[list[Scenario], list[str]]:
    """Return the most scenarios that share tested rows, and notes on those that were tested on others.

    Raises:
        DataError: There are several scenarios, and no two share tested rows.
    """
    groups: list[tuple[set[tuple[str, str]], list[Scenario]]] = []
    for scenario in found:
        rows = {(task, outcomes.rows) for run in scenario.runs for task, outcomes in run.outcomes.items()}
        members = [scenario]
        for group in [each for each in groups if each[0] & rows]:
            groups.remove(group)
            rows, members = rows | group[0], group[1] + members
        groups.append((rows, members))
    chosen = max((members for _, members in groups), key=len)
    if len(chosen) == 1 and len(found) > 1:
        raise DataError([_alone(scenario) for scenario in found])
    others = [scenario for scenario in found if scenario not in chosen]
    return chosen, [f"left out: {scenario.name} was tested on other rows ({_where(scenario)})" for scenario in others]


def _alone(scenario: Scenario) -> Problem:
    counts = ", ".join(f"{task} {len(outcomes.predictions):,}" for task, outcomes in scenario.runs[0].outcomes.items())
    found = f"scenario {scenario.name}, tested on rows of its own ({counts})"
    expected = "at least two scenarios tested on the same rows in the same order"
    return Problem(
        _where(scenario), found, expected, "give every run the same data files, or the same seed to split by"
    )


def _where(scenario: Scenario) -> str:
    return listed((str(run.folder) for run in scenario.runs), most=3)
