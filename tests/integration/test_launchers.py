"""Training under torchrun and srun: one model, one run folder, and one process that writes and prints."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mtl.evaluation.run_metrics import read_metrics
from tests.support.commands import call, outside
from tests.support.runs import data

if TYPE_CHECKING:
    from pathlib import Path

    from mtl.evaluation.run_metrics import RunMetrics

SECONDS = 600
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "mtl.train")


def flags(folder: Path, *more: str) -> list[str]:
    quick = ["backbone=tiny", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.max_epochs=1"]
    quick += ["evaluation.figures=false", "evaluation.error_analysis=false", "retention.path=null"]
    return [*data(folder), *quick, "data.batch_size=4", "trainer.log_every_n_steps=1", *more]


def scores(folder: Path) -> tuple[object, RunMetrics]:
    """Return the curves and the metrics of a run."""
    return (folder / "logs/metrics.csv").read_text(), read_metrics(folder / "metrics.json")


@pytest.mark.slow
def test_torchrun_trains_one_model_as_the_command_does_by_itself(tmp_path: Path) -> None:
    launched = call(*TORCHRUN, *flags(tmp_path), folder=tmp_path)
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout.count("epoch 1/1") == launched.stdout.count("use it") == 1
    assert "Warning" not in launched.stderr
    (run,) = tmp_path.glob("outputs/*/*")
    alone = call("mtl.train", *flags(tmp_path, "trainer=ddp", "hydra.run.dir=alone"), folder=tmp_path)
    assert alone.returncode == 0, alone.stderr
    curves, metrics = scores(run)
    same_curves, same_metrics = scores(tmp_path / "alone")
    assert (curves, metrics.tasks) == (same_curves, same_metrics.tasks)
    again = call(*TORCHRUN, f"resume={run}", "trainer.max_epochs=2", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("epoch 2/2") == 1


@pytest.mark.slow
def test_a_sweep_under_torchrun_starts_each_job_once(tmp_path: Path) -> None:
    more = ["-m", "freeze=none,backbone,all", "hydra.sweep.dir=sweep"]
    done = call(*TORCHRUN, *flags(tmp_path), *more, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()) == ["0", "1", "2"]
    assert done.stdout.count("Launching") == 1


@pytest.mark.slow
def test_the_others_end_where_the_first_process_refuses_the_command(tmp_path: Path) -> None:
    launched = call(*TORCHRUN, *flags(tmp_path, "trainer.max_epochs=none"), folder=tmp_path)
    assert launched.returncode != 0
    assert launched.stderr.count("Configuration: 1 problem") == 1
    assert not (tmp_path / "outputs").exists()
    shown = call(*TORCHRUN, "--cfg", "job", folder=tmp_path)
    assert shown.returncode == 0, shown.stderr


@pytest.mark.slow
def test_srun_trains_one_model(tmp_path: Path) -> None:
    """With the variables that it sets: there is no SLURM here."""
    common = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0"}
    common |= {"SLURM_NODELIST": "127.0.0.1", "SLURM_JOB_ID": str(os.getpid()), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "mtl.train", *flags(tmp_path, "hydra.run.dir=run")],
            cwd=tmp_path,
            env={**outside(), **common, "SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    (out, err), other = [process.communicate(timeout=SECONDS) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], (err, other)
    assert "use it" in out
    assert other == ("", "")
    assert read_metrics(tmp_path / "run/metrics.json").tasks.keys() == {"classification", "sentiment"}
