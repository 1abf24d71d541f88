"""Every experiment that is shipped runs to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mtl.base.files import CONF
from mtl.evaluation.run_metrics import read_metrics
from tests.support.runs import run

if TYPE_CHECKING:
    from pathlib import Path

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
SWEEPS = ["scenarios"]
"""Experiments of several jobs, see test_study.py."""


def test_the_experiments() -> None:
    assert EXPERIMENTS == [
        "all_frozen",
        "backbone_frozen",
        "best",
        "classification_head_frozen",
        "full_finetune",
        "gradual_unfreezing",
        "lora",
        "multi_stage",
        "quickstart",
        "scenarios",
        "sentiment_head_frozen",
        "single_task",
    ]


@pytest.mark.parametrize("experiment", [each for each in EXPERIMENTS if each not in SWEEPS])
def test_an_experiment_runs_to_its_end(experiment: str, tmp_path: Path) -> None:
    alone = ["task=sentiment"] if experiment == "single_task" else []
    run(tmp_path, f"experiment={experiment}", "trainer=debug", "trainer.max_epochs=2", *alone)
    metrics = read_metrics(tmp_path / "metrics.json")
    tasks = ["sentiment"] if alone else ["classification", "sentiment"]
    assert {task: set(splits) for task, splits in metrics.tasks.items()} == {task: {"val", "test"} for task in tasks}
    assert (metrics.cost.trainable_parameters == 0) == (experiment == "all_frozen")
    assert (tmp_path / "model" / "mtl.json").is_file()
