"""The curves of a run as CSV, which a resumed run continues rather than deletes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from mtl.base.files import replacing, sync_file


class CurveLog(CSVLogger):
    """Writes ``logs/metrics.csv`` in a run folder.

    Args:
        folder: The run folder.
        kept: How many rows of a file that is there belong to the steps before the point from which the run goes on;
            the rest is of steps that will be done again.
    """

    def __init__(self, folder: Path, kept: int = 0) -> None:
        super().__init__(folder, name="logs", version="")
        self._kept = kept

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer; its file is made ready when it is first asked for."""
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir, self._kept)
        return self._experiment

    @rank_zero_only
    def sync(self) -> int:
        """Bring all rows to the disk and return their number."""
        self.save()
        writer: _Writer = self.experiment
        writer.sync()
        return writer.rows


class _Writer(ExperimentWriter):
    """Lightning's writer, but for what would delete or rewrite the file so that a kill in between loses it."""

    def __init__(self, log_dir: str, kept: int) -> None:
        super().__init__(log_dir)
        self._path = Path(self.metrics_file_path)
        self.metrics_keys, rows = _read(self._path, kept)
        self.rows = len(rows)
        if rows:
            _write(self._path, self.metrics_keys, rows)
        else:
            self._path.unlink(missing_ok=True)

    def _check_log_dir_exists(self) -> None:
        """Delete nothing: what is to stay has not been read yet."""

    def save(self) -> None:
        """Write the rows that wait in memory."""
        self.rows += len(self.metrics)
        super().save()

    def sync(self) -> None:
        """Have the operating system write the file to the disk."""
        if self._path.is_file():
            sync_file(self._path)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        _write(self._path, fieldnames, _read(self._path)[1])


def _read(path: Path, most: int | None = None) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the columns and the first rows; nothing where there is no file, or none of its rows is wanted."""
    if most == 0 or not path.is_file():
        return [], []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = [row for at, row in enumerate(reader) if most is None or at < most]
        return list(reader.fieldnames or ()), rows


def _write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
