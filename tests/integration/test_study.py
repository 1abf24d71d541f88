"""Studies: jobs that are done are skipped, failed ones are shown and tried again, and a comparison ends them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.commands import Outcome, run
from tests.support.runs import Probe, data, probed

if TYPE_CHECKING:
    from pathlib import Path

    from mtl.data.batch import Batch
    from mtl.training.module import MultiTaskModule

TINY = ["backbone=tiny", "trainer=debug", "logger=none", "evaluation.figures=false", "evaluation.error_analysis=false"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def study(tmp_path: Path, *arguments: str) -> Outcome:
    return run("mtl.train", "-m", "experiment=scenarios", *data(tmp_path), *TINY, *arguments)


def folder_of(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "outputs" / "studies").iterdir()
    return found


def jobs_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def comparison(folder: Path) -> Any:
    return json.loads((folder / "comparison.json").read_text(encoding="utf-8"))


def test_a_study_ends_in_a_comparison_and_its_command_continues_it(tmp_path: Path) -> None:
    first = study(tmp_path, "scenario=all_frozen,backbone_frozen", "seed=1")
    assert first.code == 0, first.err
    folder = folder_of(tmp_path)
    assert folder.name.startswith("scenarios-")
    assert jobs_in(folder) == ["all_frozen-seed-1", "backbone_frozen-seed-1"]
    assert "2 jobs, 0 of them done" in first.out
    assert "job 1 of 2: all_frozen-seed-1\n" in first.out
    assert "job 2 of 2: backbone_frozen-seed-1 (more than " in first.out
    assert {row["name"] for row in comparison(folder)["scenarios"]} == {"all_frozen", "backbone_frozen"}
    assert f"page of the study: {folder.relative_to(tmp_path)}/comparison.html" in first.out
    figures = (folder / "backbone_frozen-seed-1" / "metrics.json").stat()

    again = study(tmp_path, "scenario=all_frozen,backbone_frozen,full_finetune", "seed=1,2")
    assert again.code == 0, again.err
    assert folder_of(tmp_path) == folder
    assert "6 jobs, 2 of them done" in again.out
    assert "job 2 of 6: backbone_frozen-seed-1 is done already" in again.out
    assert (folder / "backbone_frozen-seed-1" / "metrics.json").stat().st_mtime_ns == figures.st_mtime_ns
    assert {row["name"]: row["seeds"] for row in comparison(folder)["scenarios"]} == {
        "all_frozen": [1, 2],
        "backbone_frozen": [1, 2],
        "full_finetune": [1, 2],
    }


def test_a_part_of_a_study_is_compared_with_what_was_done_before(tmp_path: Path) -> None:
    assert study(tmp_path, "scenario=all_frozen", "seed=1").code == 0
    assert study(tmp_path, "scenario=backbone_frozen", "seed=1").code == 0
    assert {row["name"] for row in comparison(folder_of(tmp_path))["scenarios"]} == {"all_frozen", "backbone_frozen"}


def test_other_arguments_or_other_data_are_another_study(tmp_path: Path) -> None:
    chosen = ["scenario=all_frozen", "seed=1"]
    assert study(tmp_path, *chosen, "data.batch_size=4").code == 0
    assert study(tmp_path, *chosen, "data.batch_size=5").code == 0
    with (tmp_path / "sentiment_train.csv").open("a") as file:
        file.write("quite another sentence,good\n")
    assert run("mtl.train", "-m", "experiment=scenarios", *TINY, *data_without_writing(tmp_path), *chosen).code == 0
    assert len(list((tmp_path / "outputs" / "studies").iterdir())) == 3


def data_without_writing(tmp_path: Path) -> list[str]:
    before = {path: path.read_bytes() for path in tmp_path.glob("*.csv")}
    arguments = data(tmp_path)
    for path, content in before.items():
        path.write_bytes(content)
    return [*arguments, "data.batch_size=4"]


def test_a_job_that_fails_is_shown_and_tried_again(tmp_path: Path) -> None:
    arguments = ["scenario=lower_layers_frozen", "seed=1", "freeze.train_layers=1,99", "study.name=mine"]
    found = study(tmp_path, *arguments)
    assert found.code == 2
    folder = folder_of(tmp_path)
    assert folder.name.startswith("mine-")
    assert "this job failed, the study continues" in found.out
    assert "Traceback" not in found.out + found.err
    assert "1 job of the study failed: lower_layers_frozen-train_layers-99-seed-1" in found.out + found.err
    told = comparison(folder)
    assert [row["name"] for row in told["scenarios"]] == ["lower_layers_frozen"]
    assert [(job["failed"], job["folder"].rpartition("/")[2]) for job in told["unfinished"]] == [
        (True, "lower_layers_frozen-train_layers-99-seed-1")
    ]
    table = (folder / "comparison.md").read_text(encoding="utf-8")
    assert re.search(r"\| lower_layers_frozen-train_layers-99-seed-1 .*\bfailed\b", table)
    assert "lower_layers_frozen-train_layers-99" in (folder / "comparison.html").read_text(encoding="utf-8")
    again = study(tmp_path, *arguments)
    assert "job 1 of 2: lower_layers_frozen-train_layers-1-seed-1 is done already" in again.out
    assert "job 2 of 2: lower_layers_frozen-train_layers-99-seed-1 (more than " in again.out


def test_jobs_that_all_fail_are_named_and_nothing_is_compared(tmp_path: Path) -> None:
    found = study(tmp_path, "scenario=lower_layers_frozen", "seed=1,2", "freeze.train_layers=99", "study.name=mine")
    assert found.code == 2
    assert "2 jobs of the study failed: lower_layers_frozen-seed-1, lower_layers_frozen-seed-2" in found.out + found.err
    assert "the same command continues the study" in found.out + found.err
    assert "train first" not in found.out + found.err
    assert not (folder_of(tmp_path) / "comparison.json").exists()


def test_an_error_of_any_kind_stops_one_job_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mtl.training.run

    genuine = mtl.training.run.train

    def train(config: Any, folder: Path, choices: Any, **rest: Any) -> Any:
        if config.seed == 1:
            raise RuntimeError("out of everything")
        return genuine(config, folder, choices, **rest)

    monkeypatch.setattr(mtl.training.run, "train", train)
    found = study(tmp_path, "scenario=all_frozen", "seed=1,2")
    assert found.code == 2
    folder = folder_of(tmp_path)
    assert (
        json.loads((folder / "all_frozen-seed-1" / "job.json").read_text())["error"]
        == "RuntimeError: out of everything"
    )
    assert comparison(folder)["scenarios"][0]["seeds"] == [2]


def test_a_job_that_was_killed_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    arguments = ["scenario=full_finetune", "seed=1,2", "trainer=cpu", "trainer.max_epochs=3"]
    unbroken = study(tmp_path, *arguments, "hydra.sweep.dir=unbroken")
    assert unbroken.code == 0, unbroken.err
    with pytest.MonkeyPatch.context() as patch:
        probed(patch, Probe(after_batch=_killed_in_the_second_epoch))
        with pytest.raises(Killed):
            study(tmp_path, *arguments, "hydra.sweep.dir=broken")
    again = study(tmp_path, *arguments, "hydra.sweep.dir=broken")
    assert again.code == 0, again.err
    assert "after step" in again.out
    for job in ("full_finetune-seed-1", "full_finetune-seed-2"):
        files = [tmp_path / folder / job / "model" / "model.safetensors" for folder in ("broken", "unbroken")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_the_launcher_does_not_tell_studies_apart(tmp_path: Path) -> None:
    chosen = ["scenario=all_frozen", "seed=1"]
    assert study(tmp_path, *chosen).code == 0
    again = study(tmp_path, *chosen, "hydra/launcher=joblib", "hydra.launcher.n_jobs=1", "+hydra.launcher.timeout=null")
    assert again.code == 0, again.err
    assert "1 jobs, 1 of them done" in again.out
    assert folder_of(tmp_path).is_dir()


class Killed(BaseException):
    """Stands for the end of the process."""


def _killed_in_the_second_epoch(module: MultiTaskModule, _: Batch) -> None:
    if module.current_epoch == 1:
        raise Killed


def test_a_run_of_another_configuration_in_the_way_is_kept(tmp_path: Path) -> None:
    where = ["hydra.sweep.dir=here", "scenario=all_frozen", "seed=1"]
    assert study(tmp_path, *where, "data.batch_size=4").code == 0
    found = study(tmp_path, *where, "data.batch_size=5")
    assert found.code == 0
    assert (
        "all_frozen-seed-1 was done with another configuration, data or version: now all_frozen-seed-1.old-"
        in found.out
    )
    kept = next((tmp_path / "here").glob("all_frozen-seed-1.old-*"))
    assert (kept / "metrics.json").is_file()
    assert (tmp_path / "here" / "all_frozen-seed-1" / "metrics.json").is_file()


def test_a_value_that_is_repeated_would_be_one_job(tmp_path: Path) -> None:
    found = study(tmp_path, "seed=1,2,1", "study.name=mine")
    assert found.code == 2
    assert "each value once" in found.err
    assert not (tmp_path / "here").exists()


def test_a_study_is_a_sweep(tmp_path: Path) -> None:
    found = run("mtl.train", "study.name=mine", *data(tmp_path), *TINY)
    assert found.code == 2
    assert "study.name" in found.err
    assert "add -m and keys with values" in found.err
    assert not (tmp_path / "outputs").exists()


def test_data_that_cannot_be_read_stops_a_study_before_its_first_job(tmp_path: Path) -> None:
    found = study(tmp_path, "data.tasks.sentiment.label_column=mood")
    assert found.code == 2
    assert "mood" in found.err
    assert not (tmp_path / "outputs").exists()


def test_smaller_shares_of_the_training_rows_say_what_little_data_wants(tmp_path: Path) -> None:
    found = study(tmp_path, "scenario=all_frozen,backbone_frozen", "seed=1", "data.train_share=0.5,1")
    assert found.code == 0, found.err
    told = comparison(folder_of(tmp_path))
    assert len({row["training_rows"] for row in told["scenarios"]}) == 2
    (advice,) = (each for each in told["advice"] if each["question"] == "With little data")
    assert advice["answer"] != "no evidence"
