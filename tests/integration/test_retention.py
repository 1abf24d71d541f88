"""What a run says of its encoder's general ability."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import commands
from tests.support.runs import data, run


def kept(folder: Path) -> dict[str, float]:
    values: dict[str, float] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["retention"]
    return values


@pytest.mark.parametrize("freeze", ["backbone", "all"])
def test_a_frozen_encoder_keeps_exactly_what_it_had(tmp_path: Path, freeze: str) -> None:
    run(tmp_path / "run", *data(tmp_path), f"freeze={freeze}", "trainer.max_epochs=2")
    found = kept(tmp_path / "run")
    assert found["before"] == found["after"]
    assert found["pairs"] == 108
    report = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert f"- retention: {found['after']:.3f}, unchanged (Spearman on 108 sentence pairs)" in report


def test_training_all_layers_changes_it(tmp_path: Path) -> None:
    run(tmp_path / "run", *data(tmp_path), "learning_rates.upper=1e-2", "trainer.max_epochs=2")
    found = kept(tmp_path / "run")
    assert found["before"] != found["after"]


def test_a_continued_run_starts_where_the_first_one_ended(tmp_path: Path) -> None:
    files = data(tmp_path)
    run(tmp_path / "one", *files, "learning_rates.upper=1e-2", "trainer.max_epochs=1")
    run(tmp_path / "two", *files, f"model.init_from={tmp_path / 'one'}", "freeze=all")
    assert kept(tmp_path / "two")["before"] == pytest.approx(kept(tmp_path / "one")["after"], abs=1e-6)


def test_pairs_of_a_user_and_none(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("a\tb\tscore\nthe phone\tmy phone\t1\nhouse\tmovie\t0\ncheap\tmoney\t0.5\n", encoding="utf-8")
    files = [*data(tmp_path), "freeze=all"]
    run(tmp_path / "own", *files, f"retention.path={path}", "retention.first_column=a", "retention.second_column=b")
    assert kept(tmp_path / "own")["pairs"] == 3
    run(tmp_path / "none", *files, "retention.path=null")
    assert "retention" not in json.loads((tmp_path / "none" / "metrics.json").read_text(encoding="utf-8"))
    assert "etention" not in (tmp_path / "none" / "report.md").read_text(encoding="utf-8")


def test_bad_pairs_are_told_with_bad_data_before_anything_starts(tmp_path: Path) -> None:
    outcome = commands.run(
        "mtl.train", "backbone=tiny", "retention.path=nowhere.csv", "retention.score_column=sentence1"
    )
    assert outcome.code == 2
    assert (
        """  retention.score_column
      found:    'sentence1'
      expected: another column than first_column"""
        in outcome.err
    )
    outcome = commands.run(
        "mtl.train",
        "backbone=tiny",
        "retention.path=nowhere.csv",
        "data=files",
        "data.tasks.a.path=missing.csv",
        f"hydra.run.dir={tmp_path}",
    )
    assert outcome.code == 2
    assert "missing.csv" in outcome.err
    assert "nowhere.csv" in outcome.err
    assert not (tmp_path / "config.yaml").exists()
