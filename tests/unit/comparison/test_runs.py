"""From folders to scenarios: what counts as a run, what is a replicate, and what each scenario is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mtl.base.errors import DataError
from mtl.base.files import write_sealed_json
from mtl.comparison.recipes import IDLE, MEASURED, without
from mtl.comparison.scenario_metrics import Spread, rare_classes, summarize
from mtl.comparison.scenarios import scenarios
from mtl.evaluation.records import Retention
from mtl.evaluation.runs import find, read_record
from tests import support
from tests.support.comparisons import answers, labels, predictions, write_job, write_run
from tests.support.configs import compose_config

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


CONFIG = asdict(compose_config(["experiment=gradual_unfreezing", "callbacks=early_stopping", "backbone=tiny"]))
RESULT = (
    "task", "model.init_from", "freeze", "learning_rates", "loss", "optimizer", "heads", "calibration",
    *(f"backbone.{key}" for key in ("name", "path", "package", "revision", "random", "max_length", "pooling",
                                    "normalize", "prompt_name")),
    *(f"data.tasks.*.{key}" for key in ("train", "val", "test", "path", "dataset", "config", "revision", "splits",
                                        "text_column", "label_column", "labels",
                                        "oversample", "split_with")),
    *(f"data.{key}" for key in ("split", "interleave", "temperature", "batch_size", "eval_batch_size", "max_tokens",
                                "train_share", "most_batches")),
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy", "precision", "max_epochs",
                                   "min_epochs", "max_steps", "min_steps", "max_time", "limit_train_batches",
                                   "limit_val_batches", "fast_dev_run", "val_check_interval",
                                   "check_val_every_n_epoch", "accumulate_grad_batches", "gradient_clip_val",
                                   "gradient_clip_algorithm", "deterministic", "benchmark", "sync_batchnorm")),
    *(f"callbacks.{key}" for key in ("monitor", "early_stopping", "average", "keep_best", "bad_steps")),
)  # fmt: skip
"""Keys that change the trained model or the figures: runs that differ in one are different scenarios."""


def test_every_key_of_a_configuration_is_known_to_change_a_result_or_not() -> None:
    """A new key goes into `IDLE`, `MEASURED` or into `RESULT` above."""
    lists = (("seed",), IDLE, MEASURED, RESULT)
    assert without(CONFIG, [key for keys in lists for key in keys]) == {
        "backbone": {}, "data": {"tasks": {task: {} for task in CONFIG["data"]["tasks"]}}, "model": {},
        "trainer": {}, "callbacks": {},
    }  # fmt: skip
    for keys in lists:
        for key in keys:
            assert without(CONFIG, [key]) != CONFIG, f"there is no key {key}"
    assert all([*IDLE.values(), *MEASURED.values()])


def changed(config: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """Return a configuration with another value at a path."""
    first, *rest = path
    names = [name for name in config if first in (name, "*")]
    return {**config, **{name: changed(config[name], rest) if rest else "another value" for name in names}}


def test_settings_that_change_no_result_make_no_other_scenario(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "plain", TASKS, config={**CONFIG, "seed": 0})

    def seeds_with(key: str) -> list[list[int | None]]:
        config = {**changed(CONFIG, key.split(".")), "seed": 1}
        other = write_run(tmp_path / key.replace("*", "any"), TASKS, config=config)
        return sorted(named(plain, other).values())

    assert {key: seeds_with(key) for key in (*IDLE, *MEASURED)} == {key: [[0, 1]] for key in (*IDLE, *MEASURED)}
    assert {key: seeds_with(key) for key in RESULT} == {key: [[0], [1]] for key in RESULT}


def test_a_name_mentions_no_setting_that_changes_no_result(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / str(at), TASKS, config={"callbacks": {"progress": bool(at)}, "eps": at}) for at in (0, 1)
    ]
    assert list(named(*folders)) == ["freeze=none, eps=0", "freeze=none, eps=1"]


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


def test_a_run_of_an_earlier_version_is_read() -> None:
    run = read_record(Path(support.__file__).parent / "earlier_run")
    assert (run.name, run.seed, run.size, run.facts.choices["freeze"]) == ("freeze=none", 42, 60, "none")
    assert {task: len(each.predictions) for task, each in run.outcomes.items()} == {"classification": 9, "sentiment": 8}
    assert run.metrics.retention == Retention(0.3076423704624176, 0.309555321931839, 108)
    assert all(run.report(task).calibration is not None for task in run.outcomes)


def test_facts_that_are_broken_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path, TASKS, training_rows={"sentiment": {"bad": -1}})
    with pytest.raises(DataError) as caught:
        read_record(folder)
    assert str(caught.value) == (
        "Data: 1 problem\n"
        f"  {folder / 'metrics.json'}: run: training_rows.sentiment.bad\n"
        "      found:    -1\n"
        "      expected: greater than or equal to 0"
    )


def test_retention_and_calibration_are_read_where_a_run_has_them(tmp_path: Path) -> None:
    import json

    folder = write_run(tmp_path / "0", TASKS)
    (plain,), _ = scenarios([read_record(folder)])
    assert summarize(plain, ["sentiment"], {"sentiment": []}).tasks["sentiment"].calibration_error is None
    values = json.loads((folder / "metrics.json").read_text())
    values["retention"] = {"before": 0.82, "after": 0.79, "pairs": 200}
    scores = {"ece": 0.1, "nll": 0.5, "brier": 0.3, "accuracy": 0.8, "macro_f1": 0.8}
    calibration = {"before": scores, "after": {**scores, "ece": 0.02}, "temperature": 1.2, "tau": 0.0}
    values["tasks"]["sentiment"]["test"]["calibration"] = {**calibration, "bins": [], "bins_before": []}
    write_sealed_json(folder / "metrics.json", values)
    (measured,), _ = scenarios([read_record(folder)])
    figures = summarize(measured, ["sentiment"], {"sentiment": []})
    assert figures.tasks["sentiment"].calibration_error == Spread(0.02, None, (0.02,))
    assert (figures.retention_before, figures.retention) == (Spread(0.82, None, (0.82,)), Spread(0.79, None, (0.79,)))


@pytest.mark.parametrize("model", [[1], "text", 3, {"init_from": ["a"]}, {"init_from": 5}])
def test_a_configuration_with_another_model_section_than_ours_is_a_scenario(tmp_path: Path, model: object) -> None:
    assert named(write_run(tmp_path / "0", TASKS, seed=1, config={"model": model})) == {"freeze=none": [1]}
