"""The columns of the table of scenarios, one list for every output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mtl.base import formatting
from mtl.comparison import words
from mtl.comparison.comparing import Comparison
from mtl.comparison.scenario_metrics import Figures, Spread, TaskFigures

METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "rare_f1": "rare F1",
    "calibration_error": "calibration error",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of every scenario."""

    key: str  # its name for programs: ``sentiment.macro_f1``
    task: str | None  # the task that it belongs to, or None
    header: str  # its name for a reader, without the task
    figure: Callable[[Figures], Spread | None]  # finds the figure of a scenario
    shown: Callable[[Figures], str]  # writes it for a reader


def columns(comparison: Comparison) -> list[Column]:
    """Return the columns for which at least one scenario has a figure.

    Args:
        comparison: The comparison.
    """
    found = [*_quality(comparison), *_general()]
    return [column for column in found if any(column.figure(row) is not None for row in comparison.rows)]


def _quality(comparison: Comparison) -> Iterator[Column]:
    yield Column("validation", None, "validation", lambda row: row.validation, lambda row: words.spread(row.validation))
    yield Column("score", None, "score", lambda row: row.score, lambda row: words.spread(row.score))
    for task in comparison.rare:
        for metric, header in METRICS.items():
            yield _of_task(task, metric, header)


def _of_task(task: str, metric: str, header: str) -> Column:
    def figure(row: Figures) -> Spread | None:
        figures: TaskFigures | None = row.tasks.get(task)
        found = None if figures is None else getattr(figures, metric)
        return found if isinstance(found, Spread) else None

    return Column(f"{task}.{metric}", task, header, figure, lambda row: words.spread(figure(row)))


def _general() -> Iterator[Column]:
    yield Column("retention", None, "retention", lambda row: row.retention, lambda row: words.spread(row.retention))
    costs: dict[str, tuple[str, Callable[[float | None], str]]] = {
        "trainable_parameters": ("trained parameters", formatting.count),
        "total_seconds": ("training time", formatting.duration),
        "encoding_seconds": ("of it encoding", formatting.duration),
        "sentences_per_second": ("sentences/s", formatting.count),
        "peak_memory_bytes": ("peak memory", formatting.size),
    }
    for name, (header, write) in costs.items():
        yield _of_cost(name, header, write)


def _of_cost(name: str, header: str, write: Callable[[float | None], str]) -> Column:
    def figure(row: Figures) -> Spread | None:
        found = getattr(row, name)
        return found if isinstance(found, Spread) else None

    def shown(row: Figures) -> str:
        spread = figure(row)
        return write(None if spread is None else spread.mean)

    return Column(name, None, header, figure, shown)
