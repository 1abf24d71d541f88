"""The report's section on calibration and the terminal's tables, and the way of the figures through metrics.json."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from mtl.base.errors import DataError
from mtl.evaluation.metrics import task_report
from mtl.evaluation.records import CalibrationReport, CalibrationScores, ReliabilityBin, TaskReport
from mtl.evaluation.run_metrics import RunMetrics, read_metrics, write_metrics
from mtl.evaluation.run_summary import RunSummary
from mtl.reporting.run import render_report
from mtl.reporting.sections import calibration_section
from mtl.reporting.tables import calibration_table, decision_table
from tests.unit.reporting.test_tables import shown

if TYPE_CHECKING:
    from pathlib import Path

BEFORE = CalibrationScores(ece=0.1234, nll=0.8, brier=0.41, accuracy=0.75, macro_f1=0.5)
AFTER = CalibrationScores(ece=0.02, nll=0.7, brier=0.41, accuracy=0.74, macro_f1=0.55)
BINS = [ReliabilityBin(0.0, 0.5, 0, 0.0, 0.0), ReliabilityBin(0.5, 1.0, 8, 0.8, 0.75)]
TUNED = CalibrationReport(BEFORE, AFTER, 1.3456, 0.5, BINS, BINS)
PLAIN = CalibrationReport(BEFORE, replace(AFTER, accuracy=0.75, macro_f1=0.5), 1.3456, 0.0, BINS, BINS)


def report(calibration: CalibrationReport | None) -> TaskReport:
    return replace(task_report(torch.tensor([[3, 1], [0, 4]]), ["a", "b"]), calibration=calibration)


def test_the_section_of_a_temperature() -> None:
    blocks = list(calibration_section({"mood|": {"val": report(PLAIN), "test": report(PLAIN)}}))
    assert blocks[0] == "## Calibration"
    assert blocks[1] == (
        "| task   | split | temperature |           ECE |           NLL | Brier score |\n"
        "| ------ | ----- | ----------: | ------------: | ------------: | ----------: |\n"
        "| mood\\| | val   |       1.346 | 0.123 → 0.020 | 0.800 → 0.700 |       0.410 |\n"
        "| mood\\| | test  |       1.346 | 0.123 → 0.020 | 0.800 → 0.700 |       0.410 |"
    )
    assert len(blocks) == 4
    assert blocks[3] == (
        "<details>\n<summary>Reliability of mood| on test</summary>\n\n"
        "| probability of the predicted class | rows |  mean | share right |\n"
        "| ---------------------------------- | ---: | ----: | ----------: |\n"
        "| 0.500–1.000                        |    8 | 0.800 |       0.750 |\n\n</details>"
    )


def test_a_tuned_rule_has_a_table_of_its_own() -> None:
    blocks = list(calibration_section({"mood": {"val": report(TUNED)}}))
    assert blocks[3] == "**Decision rule**"
    assert blocks[4] == (
        "| task | split | tau |      accuracy |      macro-F1 |\n"
        "| ---- | ----- | --: | ------------: | ------------: |\n"
        "| mood | val   | 0.5 | 0.750 → 0.740 | 0.500 → 0.550 |"
    )
    assert "Reliability of mood on val" in blocks[6]


def test_there_is_no_section_without_figures() -> None:
    assert list(calibration_section({"mood": {"val": report(None)}})) == []
    assert "## Calibration" not in render_report(RunSummary("run", tasks={"mood": {"val": report(None)}}))
    assert "## Calibration" in render_report(RunSummary("run", tasks={"mood": {"val": report(PLAIN)}}))


def test_the_tables_of_the_terminal() -> None:
    tasks = {"mood": {"val": report(PLAIN), "test": report(TUNED)}}
    assert (
        shown(calibration_table(tasks))
        == """\
Calibration
                                                        Brier
task  split  temperature            ECE            NLL  score
─────────────────────────────────────────────────────────────
mood  val          1.346  0.123 → 0.020  0.800 → 0.700  0.410
mood  test         1.346  0.123 → 0.020  0.800 → 0.700  0.410
without → with what was fitted on val; lower is better"""
    )
    table = decision_table(tasks)
    assert table is not None
    assert (
        shown(table)
        == """\
Decision rule
task  split  tau       accuracy       macro-F1
──────────────────────────────────────────────
mood  test   0.5  0.750 → 0.740  0.500 → 0.550
without → with tau times the training rows'
log-frequencies subtracted from the logits"""
    )
    assert decision_table({"mood": {"val": report(PLAIN)}}) is None


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    metrics = RunMetrics({"mood": {"val": report(PLAIN), "test": report(TUNED), "extra": report(None)}})
    write_metrics(path, metrics)
    values = json.loads(path.read_text(encoding="utf-8"))["tasks"]["mood"]
    assert list(values["test"]["calibration"]) == ["before", "after", "temperature", "tau", "bins", "bins_before"]
    assert values["test"]["calibration"]["bins"][1] == {
        "lower": 0.5,
        "upper": 1.0,
        "count": 8,
        "confidence": 0.8,
        "accuracy": 0.75,
    }
    assert "calibration" not in values["extra"]
    assert read_metrics(path) == metrics


def test_all_damages_are_named_together(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_metrics(path, RunMetrics({"mood": {"val": report(PLAIN), "test": report(TUNED)}}))
    values = json.loads(path.read_text(encoding="utf-8"))
    calibrations = [values["tasks"]["mood"][split]["calibration"] for split in ("val", "test")]
    calibrations[0]["bins"] = {}
    calibrations[1]["bins"][1]["count"] = 0.5
    calibrations[1]["bins"][0] = 7
    del calibrations[1]["before"]["nll"]
    path.write_text(json.dumps(values))
    with pytest.raises(DataError) as caught:
        read_metrics(path)
    assert str(caught.value) == (
        "Data: 4 problems\n"
        f"  {path}: tasks.mood.val.calibration.bins\n"
        "      found:    {}\n"
        "      expected: a list\n"
        f"  {path}: tasks.mood.test.calibration.before.nll\n"
        "      found:    nothing: the key is missing\n"
        "      expected: a value\n"
        f"  {path}: tasks.mood.test.calibration.bins.0\n"
        "      found:    7\n"
        "      expected: keys with values\n"
        f"  {path}: tasks.mood.test.calibration.bins.1.count\n"
        "      found:    0.5\n"
        "      expected: a whole number"
    )
