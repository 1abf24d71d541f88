"""``logs/metrics.csv``: rows of steps with columns that appear later, and what a resumed run keeps."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import Trainer

from mtl.training.checkpoints import CurveLog


def content(folder: Path) -> str:
    return (folder / "logs" / "metrics.csv").read_text(encoding="utf-8")


def test_a_column_that_appears_later_is_empty_before(tmp_path: Path) -> None:
    log = CurveLog(tmp_path)
    log.log_metrics({"train/loss": torch.tensor(0.5)}, step=0)
    log.save()
    log.log_metrics({"train/loss": 0.25}, step=1)
    log.log_metrics({"epoch": 0, "val/loss": 2.0}, step=1)
    assert log.sync() == 3
    assert content(tmp_path) == "epoch,step,train/loss,val/loss\n,0,0.5,\n,1,0.25,\n0,1,,2.0\n"


def test_profilers_write_into_the_run_folder(tmp_path: Path) -> None:
    assert Trainer(accelerator="cpu", logger=CurveLog(tmp_path)).log_dir == str(tmp_path)


def test_a_resumed_run_keeps_the_rows_before_its_point(tmp_path: Path) -> None:
    log = CurveLog(tmp_path)
    for step in range(4):
        log.log_metrics({"loss": float(step)}, step=step)
    assert log.sync() == 4
    resumed = CurveLog(tmp_path, kept=2)
    assert content(tmp_path).count("\n") == 5
    resumed.log_metrics({"loss": 7.0}, step=2)
    assert resumed.sync() == 3
    assert content(tmp_path).split() == ["loss,step", "0.0,0", "1.0,1", "7.0,2"]


def test_a_new_run_removes_the_rows_of_an_earlier_one(tmp_path: Path) -> None:
    log = CurveLog(tmp_path)
    log.log_metrics({"loss": 1.0}, step=0)
    log.save()
    CurveLog(tmp_path).save()
    assert not (tmp_path / "logs" / "metrics.csv").exists()
