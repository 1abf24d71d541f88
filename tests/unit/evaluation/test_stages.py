"""The figures of stages: by hand, written and read again, in the Markdown report and in the terminal."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mtl.base.errors import DataError
from mtl.base.label_tree import LabelTree
from mtl.base.schema import read_record
from mtl.base.terminal import console
from mtl.evaluation.metrics import task_report
from mtl.evaluation.records import StageReports, TaskReport
from mtl.evaluation.run_metrics import plain
from mtl.evaluation.run_summary import RunSummary
from mtl.evaluation.stages import coarse_probabilities, stage_reports
from mtl.reporting.run import render_report
from mtl.reporting.tables import stage_table

TREE = LabelTree.over(["late", "fine", "lost"], {"bad": ["late", "lost"], "good": ["fine"]})
PROBABILITIES = np.array(
    [
        [0.30, 0.40, 0.30],  # the most probable label is fine, but bad is more probable than good
        [0.10, 0.80, 0.10],
        [0.20, 0.75, 0.05],  # within bad it is late, though the truth is lost
        [0.10, 0.20, 0.70],
    ]
)
TRUTH = np.array([0, 1, 2, 2])


@pytest.fixture
def stages() -> StageReports:
    return stage_reports(TREE, PROBABILITIES, TRUTH)


def test_by_hand(stages: StageReports) -> None:
    assert coarse_probabilities(TREE, PROBABILITIES) == pytest.approx(
        np.array([[0.6, 0.4], [0.2, 0.8], [0.25, 0.75], [0.8, 0.2]])
    )
    assert stages.first.confusion == [[2, 1], [0, 1]]
    assert stages.first.accuracy == 0.75
    assert stages.second["bad"].confusion == [[1, 0], [1, 1]]
    assert stages.second_rows == 3
    assert stages.second_accuracy == pytest.approx(2 / 3)
    assert stages.first_loss == pytest.approx(-sum(map(math.log, (0.6, 0.8, 0.25, 0.8))) / 4)
    assert stages.second_loss == pytest.approx(-sum(map(math.log, (0.3 / 0.6, 0.05 / 0.25, 0.7 / 0.8))) / 4)


def test_no_rows() -> None:
    nothing = stage_reports(TREE, np.zeros((0, 3)), np.zeros(0, dtype=np.int64))
    assert (nothing.first.rows, nothing.second_rows, nothing.second_accuracy) == (0, 0, 0.0)
    assert (nothing.first_loss, nothing.second_loss) == (0.0, 0.0)


def test_a_probability_of_zero_is_a_large_loss() -> None:
    certain = stage_reports(TREE, np.array([[0.0, 1.0, 0.0]]), np.array([0]))
    assert certain.first_loss == pytest.approx(87.5, abs=0.1)
    assert certain.second_loss == 0.0


def labels_report(stages: StageReports | None) -> TaskReport:
    return replace(task_report(torch.tensor([[0, 1, 0], [0, 1, 0], [0, 1, 1]]), TREE.labels), stages=stages)


def test_what_is_written_is_read(stages: StageReports) -> None:
    report = labels_report(stages)
    values = plain(report)
    assert read_record(TaskReport, values, "") == report
    assert values["stages"].keys() == {"first", "second", "first_loss", "second_loss"}
    assert "stages" not in values["stages"]["first"]
    assert "stages" not in values["stages"]["second"]["bad"]
    assert "stages" not in plain(labels_report(None))
    assert read_record(TaskReport, plain(labels_report(None)), "") == labels_report(None)


def test_stages_that_are_broken_are_named(stages: StageReports) -> None:
    values = plain(labels_report(stages))
    values["stages"]["first"]["accuracy"] = "high"
    del values["stages"]["second_loss"]
    with pytest.raises(DataError) as caught:
        read_record(TaskReport, values, "metrics.json")
    assert [(each.place, each.found) for each in caught.value.problems] == [
        ("metrics.json: stages.first.accuracy", "'high'"),
        ("metrics.json: stages.second_loss", "nothing: the key is missing"),
    ]


def test_the_markdown_report(stages: StageReports) -> None:
    report = render_report(RunSummary("two stages", tasks={"topic": {"test": labels_report(stages)}}))
    assert report.endswith(
        "**Stages**\n\n"
        "| stage  | decides    | rows | accuracy | macro-F1 |\n"
        "| ------ | ---------- | ---: | -------: | -------: |\n"
        "| first  | bad / good |    4 |    0.750 |    0.733 |\n"
        "| second | bad        |    3 |    0.667 |    0.667 |\n\n"
        "First stage: which coarse class, by the sum of the probabilities of its labels. Second stage: which label, "
        "among the rows of a coarse class and with that class given. Loss (mean of -log p): 0.586 in the first stage, "
        "0.609 in the second, 1.195 in all.\n\n"
        "**Confusion matrix of the first stage** (a row for each true class, a column for each predicted one)\n\n"
        "| true \\ predicted |   bad |  good |\n"
        "| ---------------- | ----: | ----: |\n"
        "| bad              | **2** |     1 |\n"
        "| good             |     0 | **1** |\n"
    )


def test_several_divided_branches_have_a_row_for_all_of_them() -> None:
    tree = LabelTree.over(["a", "b", "c", "d"], {"x": ["a", "b"], "y": ["c", "d"]})
    stages = stage_reports(tree, np.eye(4)[[0, 0, 2]], np.array([0, 1, 2]))
    out = io.StringIO()
    console(out).print(stage_table("topic, test, by stage", stages))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert lines[0] == ["topic,", "test,", "by", "stage"]
    assert ["first", "x", "/", "y", "3", "1.000", "1.000"] in lines
    assert ["second", "x", "2", "0.500", "0.333"] in lines
    assert ["second", "y", "1", "1.000", "0.500"] in lines
    assert ["second", "all", "of", "these", "3", "0.667", "–"] in lines
