"""Rows in memory: which files they become, and the settings that name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, is_progress_bar_enabled, load_from_disk

from mtl.base.errors import ConfigError
from mtl.data.in_memory import task_sources, write_all

PAIRS = [("a phone", "good"), ("a film", "bad"), ("no label", None)]
COLUMNS = {"text": [text for text, _ in PAIRS], "label": [label for _, label in PAIRS]}


@pytest.mark.parametrize("rows", [PAIRS, tuple(PAIRS), iter(PAIRS), pd.DataFrame(COLUMNS), pa.table(COLUMNS)])
def test_rows_become_a_file(rows: Any, tmp_path: Path) -> None:
    tasks, unwritten = task_sources({"mood": rows})
    assert tasks == {"mood": {"path": "training_data/mood.parquet"}}
    paths = write_all(unwritten, tmp_path)
    assert paths == {"mood": {"path": str(tmp_path / "training_data" / "mood.parquet")}}
    assert pq.read_table(paths["mood"]["path"]).to_pydict() == COLUMNS


def test_splits_and_settings_beside_them(tmp_path: Path) -> None:
    settings = {"train": PAIRS, "val": "val.csv", "test": Path("test.csv"), "text_column": "body", "labels": ["x", "y"]}
    tasks, unwritten = task_sources({"mood": settings})
    assert tasks == {"mood": {**settings, "train": "training_data/mood_train.parquet"}}
    paths = write_all(unwritten, tmp_path)
    assert pq.read_table(paths["mood"]["train"]).column_names == ["body", "label"]


def test_files_and_names_are_left_as_they_are(tmp_path: Path) -> None:
    tasks, unwritten = task_sources({"a": "a.csv", "b": Path("b.csv"), "c": {"dataset": "stanfordnlp/sst2"}})
    assert tasks == {
        "a": {"path": "a.csv"},
        "b": {"path": Path("b.csv")},
        "c": {"dataset": "stanfordnlp/sst2"},
    }
    assert unwritten == []


def test_rows_that_tasks_share_are_one_file(tmp_path: Path) -> None:
    table = pd.DataFrame({**COLUMNS, "topic": ["x", "y", "x"]})
    tasks, unwritten = task_sources({"mood": table, "topic": {"path": table, "label_column": "topic"}})
    assert [settings["path"] for settings in tasks.values()] == ["training_data/mood.parquet"] * 2
    paths = write_all(unwritten, tmp_path)
    assert paths["mood"] == paths["topic"]
    assert len(list((tmp_path / "training_data").iterdir())) == 1


@pytest.mark.parametrize("splits", [None, "DatasetDict", "settings"])
def test_a_data_set_is_saved_as_one(splits: str | None, tmp_path: Path) -> None:
    rows = Dataset.from_dict(COLUMNS)
    parts = {"train": rows, "test": rows.select([0])}
    data: Any = (
        rows if splits is None else DatasetDict(parts) if splits == "DatasetDict" else {**parts, "missing": "error"}
    )
    tasks, unwritten = task_sources({"mood": data})
    missing = {"missing": "error"} if splits == "settings" else {}
    assert tasks == {"mood": {**missing, "dataset": "training_data/mood_dataset"}}
    shown = is_progress_bar_enabled()
    saved = load_from_disk(write_all(unwritten, tmp_path)["mood"]["dataset"])
    assert is_progress_bar_enabled() == shown
    assert saved.column_names == (rows.column_names if splits is None else dict.fromkeys(parts, rows.column_names))


def test_columns_that_arrow_cannot_hold(tmp_path: Path) -> None:
    """They are left out, unless the task reads them."""
    table = pd.DataFrame({**COLUMNS, "extra": [object(), 1, "x"]})
    paths = write_all(task_sources({"mood": table})[1], tmp_path)
    assert pq.read_table(paths["mood"]["path"]).column_names == ["text", "label"]
    with pytest.raises(ConfigError) as caught:
        task_sources({"mood": {"path": table, "slices": ["extra"]}})
    (problem,) = caught.value.problems
    assert problem.place == "data.tasks.mood.path"
    assert problem.found.startswith("column 'extra': ")


def test_labels_of_several_types() -> None:
    with pytest.raises(ConfigError) as caught:
        task_sources({"mood": [("a", 1), ("b", "x")]})
    (problem,) = caught.value.problems
    assert (problem.place, problem.expected, problem.repair) == (
        "data.tasks.mood",
        "values of one type",
        "make them strings",
    )
