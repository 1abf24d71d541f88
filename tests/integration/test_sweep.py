"""Sweeps: a folder per job, and a job that fails does not stop the others."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import pytest
import yaml

from mtl.evaluation.run_metrics import read_metrics
from tests.support.commands import ROOT, call, run
from tests.support.runs import Probe, data, probed

if TYPE_CHECKING:
    from pathlib import Path

    from mtl.data.batch import Batch
    from mtl.training.module import MultiTaskModule

DEBUG = ["backbone=tiny", "trainer=debug", "logger=none"]


def test_a_sweep_over_what_is_frozen_leaves_a_run_for_each_job(tmp_path: Path) -> None:
    scenarios = ["none", "backbone", "all", "classification_head", "sentiment_head"]
    done = call("mtl.train", "-m", f"freeze={','.join(scenarios)}", *DEBUG, "hydra.sweep.dir=sweep", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()) == ["0", "1", "2", "3", "4"]
    trainable = {}
    for job, scenario in enumerate(scenarios):
        folder = tmp_path / "sweep" / str(job)
        metrics = read_metrics(folder / "metrics.json")
        assert metrics.run["choices"]["freeze"] == scenario
        assert metrics.tasks.keys() == {"classification", "sentiment"}
        assert (folder / "model" / "mtl.json").is_file()
        assert (folder / "report.md").is_file()
        trainable[scenario] = metrics.cost.trainable_parameters
    heads = 32 * 4 + 4, 32 * 2 + 2
    everything = 42048 + sum(heads)
    assert trainable == {
        "none": everything,
        "backbone": sum(heads),
        "all": 0,
        "classification_head": everything - heads[0],
        "sentiment_head": everything - heads[1],
    }


def test_a_sweep_goes_on_after_a_job_that_fails_and_says_so_at_its_end(tmp_path: Path) -> None:
    swept = "data.tasks.sentiment.label_column=mood,label"
    done = call("mtl.train", "-m", swept, *data(tmp_path), *DEBUG, "hydra.sweep.dir=sweep", folder=tmp_path)
    assert done.returncode == 2
    assert [(tmp_path / "sweep" / str(job) / "metrics.json").is_file() for job in (0, 1)] == [False, True]
    output = done.stdout + done.stderr
    assert "Traceback" not in output
    assert "this job failed, the sweep continues\nData: 3 problems\n" in output
    assert "sentiment_train.csv:1" in output
    assert "1 job of the sweep failed: job 0 (data.tasks.sentiment.label_column=mood)\n" in output
    assert "mtl.compare" not in done.stdout  # one job alone is nothing to compare


def test_a_sweep_ends_in_one_table_of_its_jobs_and_the_command_that_compares_them(tmp_path: Path) -> None:
    arguments = ["seed=1,2", "freeze=backbone", "hydra.sweep.dir=here/sweep"]
    done = call("mtl.train", "-m", *arguments, *data(tmp_path), *DEBUG, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())
    before, table = shown.split("Jobs of the sweep\n")
    assert before.count("Results\n") == 2
    assert before.count("report   here/sweep/") == 2
    assert "Calibration" not in before
    assert "Cost" not in before
    for job in (0, 1):
        tasks = read_metrics(tmp_path / "here" / "sweep" / str(job) / "metrics.json").tasks
        validated = sum(splits["val"].macro_f1 for splits in tasks.values()) / len(tasks)
        figures = [f"{value:.3f}" for value in (validated, *(splits["test"].macro_f1 for splits in tasks.values()))]
        (line,) = (line for line in table.splitlines() if f"seed={job + 1}" in line)
        assert line.split() == [str(job), f"seed={job + 1}", *figures]
    assert table.endswith("compare  python -m mtl.compare here/sweep\n\n")
    assert max(map(len, table.splitlines())) <= 80


CLIMBER = """
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore


class Climber(BasicSweeper):
    def sweep(self, arguments):
        scores = [job.return_value for batch in super().sweep(arguments) for job in batch]
        print("scores", scores)
        if None in scores:
            raise ValueError("No trials are completed yet.")  # as that of Optuna does


ConfigStore.instance().store("climber", {"_target_": f"{__name__}.Climber", "max_batch_size": 1}, "hydra/sweeper")
"""


@pytest.mark.slow
def test_a_job_returns_its_validation_score_to_any_sweeper(tmp_path: Path) -> None:
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "climber.py").write_text(CLIMBER)
    sweep = ["-m", "hydra/sweeper=climber", "seed=1,2", *data(tmp_path), *DEBUG, "hydra.sweep.dir=sweep"]
    path = f"{ROOT}:{tmp_path}"
    done = call("mtl.train", *sweep, folder=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    runs = [read_metrics(tmp_path / "sweep" / str(job) / "metrics.json").tasks for job in (0, 1)]
    scores = [statistics.fmean(splits["val"].macro_f1 for splits in tasks.values()) for tasks in runs]
    assert f"scores {scores}\n" in done.stdout

    failed = call("mtl.train", *sweep, "data.tasks.sentiment.label_column=mood", folder=tmp_path, PYTHONPATH=path)
    assert failed.returncode == 2
    assert "scores [None, None]\n" in failed.stdout
    assert "Traceback" not in failed.stdout + failed.stderr
    assert "2 jobs of the sweep failed: job 0 (seed=1), job 1 (seed=2)" in failed.stdout


def test_a_job_that_is_started_again_in_its_folder_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["backbone=tiny", "trainer=cpu", "trainer.max_epochs=3", "logger=none", "retention.path=null"]
    quick += ["evaluation.figures=false", "evaluation.error_analysis=false"]
    arguments = ["-m", "seed=1,2", *data(tmp_path), *quick]
    assert run("mtl.train", *arguments, "hydra.sweep.dir=unbroken").code == 0

    def kill(module: MultiTaskModule, _: Batch) -> None:
        if module.current_epoch == 1:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        probed(patch, Probe(after_batch=kill))
        with pytest.raises(Killed):
            run("mtl.train", *arguments, "hydra.sweep.dir=broken")
    again = run("mtl.train", *arguments, "hydra.sweep.dir=broken")
    assert again.code == 0, again.err
    assert again.out.count("broken/0 after step") == 1
    for job in ("0", "1"):
        files = [tmp_path / folder / job / "model" / "model.safetensors" for folder in ("broken", "unbroken")]
        assert files[0].read_bytes() == files[1].read_bytes()


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_launcher_runs_jobs_in_other_processes_and_the_sweep_ends_as_usual(launcher: str, tmp_path: Path) -> None:
    swept = "data.tasks.sentiment.label_column=mood,label"
    arguments = ["-m", f"hydra/launcher={launcher}", swept, *data(tmp_path), *DEBUG, "hydra.sweep.dir=sweep"]
    done = call("mtl.train", *arguments, folder=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    table = done.stdout.split("Jobs of the sweep")[1].splitlines()
    tasks = read_metrics(tmp_path / "sweep" / "1" / "metrics.json").tasks
    assert ["0", "data.tasks.sentiment.label_column=mood", "failed"] in [line.split() for line in table]
    validated = sum(splits["val"].macro_f1 for splits in tasks.values()) / len(tasks)
    assert ["1", "data.tasks.sentiment.label_column=label", f"{validated:.3f}"] in [line.split()[:3] for line in table]
    assert "1 job of the sweep failed: job 0 (data.tasks.sentiment.label_column=mood)\n" in done.stdout


def test_a_value_that_no_job_could_take_stops_the_sweep_before_its_first_job(tmp_path: Path) -> None:
    done = call("mtl.train", "-m", "freeze=none,bakbone", "seed=1,-1", *DEBUG, "hydra.sweep.dir=sweep", folder=tmp_path)
    assert done.returncode == 2
    assert not (tmp_path / "sweep").exists()
    assert done.stdout == ""
    assert done.stderr.startswith("Configuration: 2 problems\n")
    assert "'bakbone'" in done.stderr
    assert "did you mean backbone?" in done.stderr
    assert "  seed\n      found:    -1\n" in done.stderr


def test_one_run_from_the_command_line(tmp_path: Path) -> None:
    done = call("mtl.train", *data(tmp_path), *DEBUG, "hydra.run.dir=run", "seed=7", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_metrics(tmp_path / "run" / "metrics.json").run["seed"] == 7
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))["seed"] == 7
    assert "report   run/report.md\npage     run/report.html\nmodel    run/model\nall      run\n" in done.stdout
    assert "Warning" not in done.stderr
    assert "epoch 1/1" in done.stdout
