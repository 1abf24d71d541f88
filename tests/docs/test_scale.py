"""The table in docs/scale.md is the one that its command prints."""

from __future__ import annotations

import shlex

import pytest

from tests.benchmarks import plan_scale
from tests.docs.test_pages import commands
from tests.support.commands import ROOT

PAGE = ROOT / "docs" / "scale.md"


def test_the_table_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = [line for line in commands(PAGE) if "plan_scale" in line]
    plan_scale.main(shlex.split(command)[3:])
    assert capsys.readouterr().out in PAGE.read_text(encoding="utf-8")


def test_the_model_by_hand() -> None:
    given = plan_scale.Assumptions(
        rate=100, rows=50, gradients=1e9, bandwidth=1e10, latency=0.01, hidden=0.25, encoded=1, price=3600
    )
    assert given.averages(1) == 0
    assert given.averages(4) == pytest.approx(2 * 3 / 4 * 0.1 + 2 * 3 * 0.01)
    assert given.step(4) == pytest.approx(0.5 + 0.75 * 0.21)
    *_, last = plan_scale.table(given, training=1_000, bulk=6_400)
    cells = [cell.strip() for cell in last.strip("|").split("|")]
    step = 0.5 + 0.75 * (2 * 63 / 64 * 0.1 + 126 * 0.01)
    assert cells[0] == "64"
    assert cells[3] == f"{64 * 50 / step:,.0f}"
    assert cells[-1] == "6,400"  # a device and second costs 1, as a row does
