"""The tables of a comparison, for Markdown and the page, and shorter ones for the terminal; their columns of figures.

A new column is a line in `columns`, and its figure a field in `mtl.comparison.scenario_metrics`; that of a task also
needs a name in `words.MEASURE`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mtl.base import formatting
from mtl.comparison import words
from mtl.comparison.comparing import Comparison
from mtl.comparison.differences import Difference
from mtl.comparison.scenario_metrics import Figures, Spread
from mtl.data.problems import plural
from mtl.reporting.tables import Cell, Rows, Table

_COSTS: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "trainable_parameters": ("trained parameters", formatting.count),
    "total_seconds": ("training time", formatting.duration),
    "encoding_seconds": ("of it encoding", formatting.duration),
    "sentences_per_second": ("sentences/s", formatting.count),
    "peak_memory_bytes": ("peak memory", formatting.size),
}
_EVIDENCE = ["difference", "95 % interval", "p, adjusted", "verdict"]
_NO_COST = ("score", "validation", "encoding_seconds")  # the last one is in the training time
_THESE_RUNS = "1 seed"  # in place of `words.THESE_RUNS`, which takes too many columns


@dataclass(frozen=True, slots=True)
class Column:
    """One metric of every scenario."""

    metric: str  # its attribute in `Figures`, or with a task in `TaskFigures`
    header: str  # its name for a reader, without the task
    task: str | None = None
    write: Callable[[float | None], str] | None = None  # writes the mean for a reader; by default `words.spread`

    @property
    def key(self) -> str:
        """The name for programs: ``sentiment.macro_f1``."""
        return f"{self.task}.{self.metric}" if self.task else self.metric

    def spread(self, row: Figures) -> Spread | None:
        """Return the metric of a scenario; None where it was not measured."""
        figures = row.tasks.get(self.task) if self.task else row
        spread: Spread | None = None if figures is None else getattr(figures, self.metric)
        return spread

    def mean(self, row: Figures) -> float | None:
        """Return the mean of the metric over the seeds of a scenario; None where it was not measured."""
        spread = self.spread(row)
        return None if spread is None else spread.mean

    def shown(self, row: Figures) -> str:
        """Return the metric of a scenario as it is written for a reader."""
        return words.spread(self.spread(row)) if self.write is None else self.write(self.mean(row))


def columns(comparison: Comparison) -> list[Column]:
    """Return the columns for which at least one scenario has a figure."""
    of_task = ("accuracy", "macro_f1", "rare_f1", "calibration_error")
    every = [
        *(Column(name, name) for name in ("validation", "score")),
        *(Column(name, words.MEASURE[name], task) for task in comparison.rare_classes for name in of_task),
        Column("retention", "retention"),
        *(Column(name, header, write=write) for name, (header, write) in _COSTS.items()),
    ]
    return [column for column in every if any(column.spread(row) is not None for row in comparison.rows)]


def scenario_table(comparison: Comparison) -> Table:
    """Return all figures of each scenario, the best first, and the jobs without figures."""
    shown, best = columns(comparison), comparison.best
    header = [f"{column.task}: {column.header}" if column.task else column.header for column in shown]
    rows: list[list[Cell | str]] = [
        [
            row.name,
            _to_best(comparison, row),
            *(Cell(column.shown(row), column.mean(row)) for column in shown),
            Cell(str(len(row.scenario.runs)), len(row.scenario.runs)),
            Cell(formatting.count(row.scenario.size), row.scenario.size),
        ]
        for row in comparison.rows
    ]
    styles = {at: "best" for at, row in enumerate(comparison.rows) if row is best}
    for job in comparison.unfinished:
        styles[len(rows)] = "failed"
        rows.append([words.job_name(job), Cell(words.job_state(job)), *[Cell(formatting.NOTHING)] * (len(shown) + 2)])
    names = ["scenario", "to the best", *header, "runs", "training rows"]
    return Table("The best first; a click on a heading sorts", names, rows, styles=styles)


def _to_best(comparison: Comparison, row: Figures) -> Cell:
    if row is comparison.best:
        return Cell("best", 0.0)
    difference = comparison.difference(row.name, comparison.best.name)
    if difference is None:
        return Cell(formatting.NOTHING)
    verdict = words.verdict(difference)
    return Cell(f"{words.signed(difference.value)}, {verdict}", difference.value, _kind(difference))


def _kind(difference: Difference) -> str:
    return "real" if words.verdict(difference) == words.REAL else ""


def _evidence(difference: Difference) -> list[Cell]:
    return [
        Cell(words.signed(difference.value), difference.value),
        Cell(words.interval(difference), difference.low),
        Cell(words.p_value(difference.p_adjusted), difference.p_adjusted),
        Cell(words.verdict(difference), kind=_kind(difference)),
    ]


def difference_table(reference: str, differences: Sequence[Difference]) -> Table:
    """Return differences to one scenario with their intervals and verdicts."""
    rows: list[list[Cell | str]] = []
    for difference in differences:
        measure = words.MEASURE[difference.measure]
        where = measure if difference.task is None else f"{difference.task}, {measure}"
        rows.append([difference.scenario, where, *_evidence(difference)])
    return Table(f"Each scenario minus {reference}", ["scenario", "measure", *_EVIDENCE], rows, texts=2)


def _sharing(comparison: Comparison) -> Iterator[tuple[Difference, str, str]]:
    """Yield `Comparison.sharing`, macro-F1 first, each with the figures of the task alone and with the others."""
    for difference in sorted(comparison.sharing, key=lambda difference: difference.measure != "macro_f1"):
        figures = (
            comparison.row(name).tasks[str(difference.task)] for name in (difference.reference, difference.scenario)
        )
        alone, together = (words.spread(getattr(of_task, difference.measure)) for of_task in figures)
        yield difference, alone, together


def sharing_table(comparison: Comparison) -> Table:
    """Return what each task gains or loses by sharing the encoder."""
    rows: Rows = [
        [gain.scenario, str(gain.task), words.MEASURE[gain.measure], alone, together, *_evidence(gain)]
        for gain, alone, together in _sharing(comparison)
    ]
    return Table(words.SHARING, ["scenario", "task", "measure", "alone", "shared", *_EVIDENCE], rows, texts=3)


def brief_tables(comparison: Comparison) -> Iterator[Table]:
    """Yield the tables of the terminal, which fit 80 columns: ranking, each task, sharing, and cost."""
    shown = columns(comparison)
    yield _ranking(comparison)
    for task in comparison.rare_classes:
        yield _figures(comparison, task, [column for column in shown if column.task == task])
    sharing = []
    for gain, alone, together in _sharing(comparison):
        if gain.measure == "macro_f1":
            difference = [words.signed(gain.value), words.interval(gain), _brief_verdict(gain)]
            sharing.append([gain.scenario, str(gain.task), alone, together, *difference])
    if sharing:
        names = ["scenario", "task", "alone", "shared", "difference", "95 % interval", "verdict"]
        note = "macro-F1 of each task trained alone and with the others, over the same test rows"
        yield Table("Sharing the encoder", names, sharing, note, texts=2)
    cost = [column for column in shown if column.task is None and column.key not in _NO_COST]
    yield _figures(comparison, "Cost", cost, words.COST)


def _ranking(comparison: Comparison) -> Table:
    validated = any(row.validation for row in comparison.rows)
    counts = {len(row.scenario.runs) for row in comparison.rows}
    counted = len(counts) > 1  # otherwise the note says it, and names have more room
    names = ["scenario", *(["runs"] if counted else []), *(["val."] if validated else [])]
    names += ["score", "to the best", "95 % interval", "verdict"]
    rows: list[list[Cell | str]] = []
    for row in comparison.rows:
        difference = comparison.difference(row.name, comparison.best.name)
        rows.append(
            [
                row.name,
                *([str(len(row.scenario.runs))] if counted else []),
                *([formatting.score(row.validation.mean if row.validation else None)] if validated else []),
                words.spread(row.score),
                *([words.signed(difference.value), words.interval(difference)] if difference else ["", ""]),
                "best" if row is comparison.best else _brief_verdict(difference),
            ]
        )
    rows += [[words.job_name(job), *[""] * (len(names) - 2), words.job_state(job)] for job in comparison.unfinished]
    styles = dict.fromkeys(range(len(comparison.rows), len(rows)), "failed")
    styles[next(at for at, row in enumerate(comparison.rows) if row is comparison.best)] = "best"
    runs = "" if counted else f"{plural(min(counts), 'run')} of each scenario. "
    note = f"{runs}score: macro-F1, mean of {words.both(comparison.tasks)}. {words.ranking(comparison)}"
    if any(words.verdict(difference) == words.THESE_RUNS for difference in comparison.differences):
        note += f"\n{_THESE_RUNS}: {words.ONE_SEED}"
    return Table("Scenarios", names, rows, note, styles=styles)


def _brief_verdict(difference: Difference | None) -> str:
    verdict = words.verdict(difference)
    return {words.NOISE: "noise", words.THESE_RUNS: _THESE_RUNS}.get(verdict, verdict)


def _figures(comparison: Comparison, title: str, shown: Sequence[Column], note: str = "") -> Table:
    rows = [[row.name, *(column.shown(row) for column in shown)] for row in comparison.rows]
    return Table(title, ["scenario", *(column.header for column in shown)], rows, note)
