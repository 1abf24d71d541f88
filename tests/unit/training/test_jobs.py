"""The jobs of a study: the names of their folders, what they leave, and how long the others will take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mtl.training.jobs import JobRecord, job_name, jobs_of, read_record, seconds_left

if TYPE_CHECKING:
    from pathlib import Path


def done(folder: Path, seconds: float) -> None:
    folder.mkdir()
    (folder / "metrics.json").write_text("{}")
    JobRecord("done", "same", seconds).write(folder)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"seed": "1", "scenario": "none"}, "none-seed-1"),
        ({"scenario": "none", "++data.train_share": "0.1", "++seed": "2"}, "none-train_share-0.1-seed-2"),
        ({"freeze": "backbone"}, "freeze-backbone"),
        ({"learning_rates.heads": "0.1", "loss.heads": "2"}, "learning_rates.heads-0.1-loss.heads-2"),
        ({"backbone.name": "'plain'"}, "name-plain"),
    ],
)
def test_a_job_is_named_by_what_is_swept(values: dict[str, str], name: str) -> None:
    assert job_name(values) == name


def test_values_that_are_no_names_are_still_told_apart() -> None:
    names = {job_name({"data.tasks.a.path": value}) for value in ("/data/a b.csv", "/data/a_b.csv", "_data_a_b.csv")}
    assert len(names) == 3
    assert all("/" not in name and " " not in name for name in names)


def test_jobs_come_as_the_sweeper_multiplies_them() -> None:
    jobs = jobs_of({"seed": ["1", "2"], "scenario": ["all", "none"]})
    assert list(jobs) == ["all-seed-1", "none-seed-1", "all-seed-2", "none-seed-2"]
    assert jobs["none-seed-1"] == {"seed": "1", "scenario": "none"}


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = JobRecord("failed", "abc", 1.5, "no such file")
    record.write(tmp_path)
    assert read_record(tmp_path) == record


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"status": "done"}', "\x00", '{"status": 1, "seconds": "x"}'])
def test_a_damaged_record_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "job.json").write_text(content)
    assert read_record(tmp_path) is None


def test_a_job_without_figures_is_not_done(tmp_path: Path) -> None:
    JobRecord("done", "abc", 1.5).write(tmp_path)
    assert read_record(tmp_path) is None


def test_time_left_is_that_of_the_same_scenario_with_another_seed(tmp_path: Path) -> None:
    jobs = jobs_of({"seed": ["1", "2"], "scenario": ["all", "none"]})
    assert seconds_left(jobs, tmp_path, 0) == (0.0, False)
    done(tmp_path / "all-seed-1", 10)
    assert seconds_left(jobs, tmp_path, 1) == (30.0, False)  # nothing is known of `none`: the mean, three times
    done(tmp_path / "none-seed-1", 100)
    assert seconds_left(jobs, tmp_path, 2) == (110.0, True)
    done(tmp_path / "all-seed-2", 20)
    assert seconds_left(jobs, tmp_path, 3) == (100.0, True)


def test_a_job_that_failed_counts_as_left(tmp_path: Path) -> None:
    jobs = jobs_of({"seed": ["1", "2"]})
    done(tmp_path / "seed-1", 10)
    (tmp_path / "seed-2").mkdir()
    JobRecord("failed", "same", 1.0, "it broke").write(tmp_path / "seed-2")
    assert seconds_left(jobs, tmp_path, 1) == (10.0, True)
