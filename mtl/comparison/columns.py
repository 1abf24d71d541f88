"""The columns of the table of scenarios, one list for every output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mtl.base import formatting
from mtl.comparison import words
from mtl.comparison.comparing import Comparison
from mtl.comparison.scenario_metrics import Figures, Spread

TASK_METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "rare_f1": "rare F1",
    "calibration_error": "calibration error",
}
COSTS: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "trainable_parameters": ("trained parameters", formatting.count),
    "total_seconds": ("training time", formatting.duration),
    "encoding_seconds": ("of it encoding", formatting.duration),
    "sentences_per_second": ("sentences/s", formatting.count),
    "peak_memory_bytes": ("peak memory", formatting.size),
}


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
        spread: Spread | None = getattr(row.tasks.get(self.task) if self.task else row, self.metric, None)
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
    every = [
        *(Column(name, name) for name in ("validation", "score")),
        *(Column(name, header, task) for task in comparison.rare for name, header in TASK_METRICS.items()),
        Column("retention", "retention"),
        *(Column(name, header, write=write) for name, (header, write) in COSTS.items()),
    ]
    return [column for column in every if any(column.spread(row) is not None for row in comparison.rows)]
