"""``python -m mtl.report``: a run's page from its files, and what it says where they are not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.commands import run
from tests.support.comparisons import answers, labels, predictions, write_run

if TYPE_CHECKING:
    from pathlib import Path

TRUE = labels(30)


def test_a_runs_page_is_written_into_its_folder(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"topic": predictions(TRUE, answers(TRUE, range(3)))})
    outcome = run("mtl.report", f"run={folder}")
    assert (outcome.code, outcome.out) == (0, f"written: {folder / 'report.html'}\n")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "3 mistakes, the most confident first" in page


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    outcome = run("mtl.report", f"run={tmp_path}")
    assert outcome.code == 2
    assert outcome.err == (
        "Data: 1 problem\n"
        f"  {tmp_path / 'metrics.json'}\n"
        "      found:    no such file\n"
        "      expected: the metrics.json of a finished run\n"
        "      repair:   look for the run's folder; a run writes metrics.json when it ends\n"
    )
