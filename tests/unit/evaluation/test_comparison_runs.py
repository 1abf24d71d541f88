"""From folders to scenarios: what counts as a run, what is a replicate, and what each scenario is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtl.errors import DataError
from mtl.evaluation.comparison.figures import rare_classes
from mtl.evaluation.comparison.finding import find
from mtl.evaluation.comparison.records import read_record
from mtl.evaluation.comparison.scenarios import scenarios
from mtl.files import write_sealed_json
from tests.support.comparisons import answers, labels, predictions, write_job, write_run

TRUE = labels(12)
TASKS = {"sentiment": predictions(TRUE, answers(TRUE, [1]))}


def named(*folders: Path) -> dict[str, list[int | None]]:
    found, _ = scenarios(read_record(folder) for folder in folders)
    return {scenario.name: [run.seed for run in scenario.runs] for scenario in found}


def test_runs_are_found_at_any_depth_and_once(tmp_path: Path) -> None:
    for at in (0, 2, 10):
        write_run(tmp_path / "sweep" / str(at), TASKS)
    (tmp_path / "sweep" / "multirun.yaml").touch()
    runs, unfinished = find([tmp_path, tmp_path / "sweep" / "2"])
    assert [run.name for run in runs] == ["0", "2", "10"]
    assert unfinished == []


def test_a_job_without_figures_is_failed_or_unfinished(tmp_path: Path) -> None:
    write_run(tmp_path / "0", TASKS)
    write_job(
        tmp_path / "1", "[2026] - this job failed, the sweep goes on\nConfiguration: 1 problem\n  freeze\n", ["a=b"]
    )
    write_job(tmp_path / "2", "epoch 1/6\n")
    failed, stopped = find([tmp_path])[1]
    assert (failed.failed, failed.reason, failed.overrides) == (True, "Configuration: 1 problem freeze", ("a=b",))
    assert (stopped.failed, stopped.reason, stopped.overrides) == (False, "epoch 1/6", ())


def test_folders_that_do_not_exist_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        find([tmp_path / "a", tmp_path / "b"])
    assert str(caught.value) == (
        "Data: 2 problems\n"
        f"  {tmp_path / 'a'}\n"
        "      found:    no such folder\n"
        "      expected: a run folder, the folder of a multirun, or one above them\n"
        f"  {tmp_path / 'b'}\n"
        "      found:    no such folder\n"
        "      expected: a run folder, the folder of a multirun, or one above them"
    )


@pytest.mark.parametrize(("jobs", "found"), [(0, "no run"), (2, "2 jobs, none of them finished")])
def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path, jobs: int, found: str) -> None:
    for at in range(jobs):
        write_job(tmp_path / str(at))
    with pytest.raises(DataError) as caught:
        find([tmp_path])
    assert str(caught.value) == (
        "Data: 1 problem\n"
        f"  {tmp_path}\n"
        f"      found:    {found}\n"
        "      expected: runs: folders with metrics.json and config.yaml\n"
        "      repair:   train first, then compare"
    )


def test_runs_that_differ_in_the_seed_only_are_replicates(tmp_path: Path) -> None:
    first = write_run(tmp_path / "0", TASKS, seed=2, config={"logger": {"kinds": ["csv"]}})
    second = write_run(tmp_path / "1", TASKS, seed=1, config={"logger": {"kinds": []}})
    other = write_run(tmp_path / "2", TASKS, name="freeze=all")
    assert named(first, second, other) == {"freeze=none": [1, 2], "freeze=all": [1]}


def test_of_runs_that_repeat_a_seed_the_last_is_taken(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / str(at), TASKS) for at in range(2)]
    found, notes = scenarios(map(read_record, folders))
    assert [run.folder for run in found[0].runs] == [tmp_path / "1"]
    assert notes == [f"{tmp_path / '0'} is left out: {tmp_path / '1'} repeats it with the same seed, 1"]


def test_names_tell_the_size_then_choices_then_values(tmp_path: Path) -> None:
    few, many = ({"sentiment": {"bad": count, "fine": 1, "good": 1}} for count in (98, 1198))
    folders = [
        write_run(tmp_path / "0", TASKS, training_rows=few),
        write_run(tmp_path / "1", TASKS, training_rows=many, choices={"loss": "sum"}, config={"loss": 1}),
        write_run(tmp_path / "2", TASKS, training_rows=many, choices={"loss": "focal"}, config={"loss": 2}),
        write_run(tmp_path / "3", TASKS, name="freeze=all", config={"optimizer": {"eps": 1}}),
        write_run(tmp_path / "4", TASKS, name="freeze=all", config={"optimizer": {"eps": 2}}),
    ]
    assert list(named(*folders)) == [
        "freeze=none, 100 rows",
        "freeze=none, 1,200 rows, loss=sum",
        "freeze=none, 1,200 rows, loss=focal",
        "freeze=all, optimizer.eps=1",
        "freeze=all, optimizer.eps=2",
    ]


def test_names_leave_out_what_most_have_and_what_is_the_default_all_the_same(tmp_path: Path) -> None:
    default = {"kind": "cross_entropy", "gamma": 2}
    own = [{}, {**default, "kind": "focal"}, {**default, "gamma": 2, "tau": 0.5}]
    folders = [
        write_run(tmp_path / f"{at}", TASKS, config={"loss": {"default": default, "tasks": {"sentiment": each}}})
        for at, each in enumerate(own)
    ]
    choices = [{"loss": "sum", "data": "mine"}, {"loss": "sum", "data": "mine"}, {"loss": "sum", "data": "theirs"}]
    for at, each in enumerate(choices):
        folders.append(write_run(tmp_path / f"all{at}", TASKS, name="all", choices=each, config={"eps": at}))
    assert list(named(*folders)) == [
        "freeze=none",
        "freeze=none, loss.sentiment.kind=focal",
        "freeze=none, loss.sentiment.tau=0.5",
        "all, eps=0",
        "all, eps=1",
        "all, data=theirs",
    ]


def test_replicates_may_start_from_replicates(tmp_path: Path) -> None:
    starts = [write_run(tmp_path / f"start{seed}", TASKS, seed=seed) for seed in (1, 2)]
    other = write_run(tmp_path / "other", TASKS, name="freeze=all")
    folders = [
        write_run(tmp_path / f"{at}", TASKS, seed=at, name="heads", config={"model": {"init_from": str(start)}})
        for at, start in enumerate([*starts, other])
    ]
    assert [len(seeds) for seeds in named(*folders).values()] == [2, 1]


def test_a_class_is_rare_below_half_of_an_equal_share_of_the_training_rows(tmp_path: Path) -> None:
    rows = {"sentiment": {"bad": 100, "fine": 29, "good": 51}}
    told = read_record(write_run(tmp_path / "0", TASKS, training_rows=rows))
    assert rare_classes("sentiment", [told]) == ["fine"]


def test_without_training_rows_the_tested_rows_tell_what_is_rare(tmp_path: Path) -> None:
    true = ["bad"] * 10 + ["good"] * 9 + ["fine"] * 2
    run = read_record(write_run(tmp_path / "0", {"sentiment": predictions(true, true)}))
    assert rare_classes("sentiment", [run]) == ["fine"]


def test_retention_and_calibration_are_read_where_a_run_has_them(tmp_path: Path) -> None:
    import json

    folder = write_run(tmp_path / "0", TASKS)
    assert (read_record(folder).retention, read_record(folder).calibration) == (None, {})
    values = json.loads((folder / "metrics.json").read_text())
    values["retention"] = {"before": 0.82, "after": 0.79, "pairs": 200}
    scores = {"ece": 0.1, "nll": 0.5, "brier": 0.3, "accuracy": 0.8, "macro_f1": 0.8}
    calibration = {"before": scores, "after": {**scores, "ece": 0.02}, "temperature": 1.2, "tau": 0.0}
    values["tasks"]["sentiment"]["test"]["calibration"] = {**calibration, "bins": [], "bins_before": []}
    write_sealed_json(folder / "metrics.json", values)
    assert (read_record(folder).retention, read_record(folder).calibration) == ((0.82, 0.79), {"sentiment": 0.02})
