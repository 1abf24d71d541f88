"""``python -m mtl.tune``: a search over real runs, continued, killed, shared by processes, and what it leaves."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna import load_study
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from mtl.config.command_line import check_command_line
from mtl.training.reevaluate import read_config
from tests.support.commands import outside, run
from tests.support.runs import data

SPACE = """
arguments: [freeze=backbone, backbone=tiny, trainer=cpu, heads=mlp]
search:
  learning_rates.heads: {kind: float, low: 1e-4, high: 0.2, log: true}
  loss: {kind: categorical, choices: [sum, dwa]}
  data.batch_size: {kind: categorical, choices: [4, 8]}
"""


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(SPACE)
    return ["space=mine.yaml", "output=search", "trainer.max_epochs=2", *data(tmp_path)]


def trials(state: str = "") -> list[Any]:
    study = load_study(study_name="mtl", storage=JournalStorage(JournalFileBackend("search/journal.log")))
    return [trial for trial in study.trials if trial.state.name.startswith(state)]


def test_a_search_ends_in_settings_to_train_with_and_its_command_continues_it(arguments: list[str]) -> None:
    first = run("mtl.tune", *arguments, "trials=2", "seeds=0")
    assert first.code == 0, first.err
    assert "trial 0 (1 ended): " in first.out
    assert "trained parameters" not in first.out  # what a run prints is in its log
    again = run("mtl.tune", *arguments, "trials=3", "seeds=1")
    assert again.code == 0, again.err
    assert "search search: 2 trials so far\ntrial 2 (3 ended): " in again.out
    assert len(trials()) == 3

    for folder in Path("search/trials").iterdir():
        assert {path.name for path in (folder / "predictions").iterdir()} == {
            "classification_val.csv",
            "sentiment_val.csv",
        }
        assert not (folder / "model").exists()
        assert "Plan of an epoch" in (folder / "train.log").read_text()
    best = max(trials("COMPLETE"), key=lambda trial: trial.value)
    file = Path("search/configurations/experiment/tuned.yaml")
    assert yaml.safe_load(file.read_text())["data"] == {"batch_size": best.params["data.batch_size"]}
    command = next(line for line in again.out.splitlines() if line.startswith("train    python -m mtl.train "))
    words = command.split()[4:]
    assert words[:3] == ["--config-dir", "search/configurations", "experiment=tuned"]
    tuned = check_command_line(words).first
    assert tuned is not None
    (confirmed,) = Path("search/final").glob("tuned-seed-43")
    found = read_config(confirmed)
    assert found.learning_rates == tuned.learning_rates
    assert (found.loss, found.heads, found.freeze, found.trainer) == (
        tuned.loss,
        tuned.heads,
        tuned.freeze,
        tuned.trainer,
    )
    assert found.seed == 43
    assert found.evaluation.test
    page = Path("search/tuning.html").read_text()
    assert "Measured once on the test rows" in page
    assert "The score of each completed trial against learning_rates.heads." in page


def test_what_cannot_be_searched_is_told_before_anything_starts(arguments: list[str]) -> None:
    Path("mine.yaml").write_text(SPACE.replace("0.2", "2").replace("dwa", "dwb"))
    wrong = run("mtl.tune", *arguments, "backbone=tinny")
    assert (wrong.code, wrong.out) == (2, "")
    assert "Traceback" not in wrong.err
    assert not Path("search").exists()
    assert run("mtl.tune", *arguments[1:], "space=nothing").code == 2
    assert run("mtl.tune", *arguments, "trials=0").code == 2
    other = run("mtl.tune", "--help")
    assert (other.code, other.out.partition("\n")[0]) == (
        0,
        "usage: python -m mtl.tune [space=NAME] [trials=N] [minutes=M] [ARGUMENT …]",
    )


@pytest.mark.slow
def test_a_killed_search_is_finished_by_two_processes(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "mtl.tune", *arguments, "trials=5", "seeds=1"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, env=outside(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    killed = start()
    for _ in range(1200):
        time.sleep(0.25)
        if list(Path("search/trials").glob("*/checkpoints/last.ckpt")):
            break
    killed.kill()
    killed.communicate()
    both = [start(), start()]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert "Traceback" not in "".join(outputs)
    assert len(trials("COMPLETE")) + len(trials("PRUNED")) == 5
    identities = [trial.user_attrs["identity"] for trial in trials() if trial.state.name in ("COMPLETE", "PRUNED")]
    assert len(set(identities)) == 5
    assert Path("search/tuning.html").is_file()
