"""The curves that a run logged with ``logger=csv``, as far as there are any."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

LOG = Path("logs") / "metrics.csv"


def read_curves(run: str | Path) -> dict[str, list[tuple[float, float]]]:
    """Return for each logged figure its values by epoch, counted from 1; training losses as their mean in the epoch.

    A run without such a log has no curves; a cell that cannot be read, as a killed run may leave it, is passed over.

    Args:
        run: The run folder.
    """
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    try:
        with (Path(run) / LOG).open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                epoch = _number(line.pop("epoch", None))
                for name, cell in line.items():
                    value = _number(cell)
                    if epoch is not None and value is not None and name != "step":
                        found[name][epoch + 1].append(value)
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
    return {
        name: [(epoch, sum(values) / len(values)) for epoch, values in sorted(points.items())]
        for name, points in found.items()
    }


def _number(cell: str | None) -> float | None:
    try:
        return float(cell) if cell else None
    except (TypeError, ValueError):
        return None
