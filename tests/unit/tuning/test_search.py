"""Searches: nothing runs twice, killed trials are repeated, failed ones are told, hopeless ones stop early."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import optuna
import pytest
from optuna.trial import TrialState

import mtl.training.run
from mtl.base.errors import ConfigError, DataError, MtlError, Problem
from mtl.base.run_folder import begin
from mtl.config.command_line import CommandLine
from mtl.config.fields import Config
from mtl.evaluation.run_metrics import Cost, RunMetrics, write_metrics
from mtl.training.callbacks import StoppedEarly
from mtl.training.inputs import absolute
from mtl.tuning.outcome import pareto_front
from mtl.tuning.search import JOURNAL, Search, short_names, shown
from mtl.tuning.space import SearchSpace, read_space
from tests.support.comparisons import answers, labels, predictions, report

SPACE = """
arguments: [backbone=tiny, freeze=backbone]
search:
  trainer.max_epochs: {kind: int, low: 1, high: 3}
  loss: {kind: categorical, choices: [sum, dwa]}
"""
ALL = 6


class Composed:
    """The jobs of a command line, each composed once, which takes most of the time here."""

    def __init__(self, command: CommandLine) -> None:
        self.swept = command.swept
        self._command = command
        self._jobs: dict[str, tuple[Config, dict[str, str]]] = {}

    def job(self, values: Mapping[str, str]) -> tuple[Config, dict[str, str]]:
        key = str(values)
        if key not in self._jobs:
            self._jobs[key] = self._command.job(values)
        return self._jobs[key]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> SearchSpace:
    path = tmp_path_factory.mktemp("space") / "mine.yaml"
    path.write_text(SPACE)
    found = read_space(str(path), [])
    return replace(found, command=cast("CommandLine", Composed(found.command)))


def wrong_rows(config: Config) -> int:
    """Return how many of twelve rows a fake run gets wrong: the fewest with two epochs."""
    return abs((config.trainer.max_epochs or 0) - 2) + (config.loss.combine != "sum")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations of the runs, which are not trained but have a score."""
    configs: list[Config] = []

    def train(config: Config, folder: Path, choices: Any, *, resume: bool = False, **rest: Any) -> None:
        configs.append(config)
        begin(folder, choices, asdict(absolute(config)))
        true = labels(12)
        val = report(predictions(true, answers(true, range(wrong_rows(config)))))
        cost = Cost(train_seconds=float(config.trainer.max_epochs or 0), encoding_seconds=0.0)
        write_metrics(folder / "metrics.json", RunMetrics({"a": {"val": val}}, cost))

    monkeypatch.setattr(mtl.training.run, "train", train)
    return configs


def search(folder: Path, space: SearchSpace, trials: int | None = 50, **settings: Any) -> Search:
    found = Search(folder, space, **settings)
    found.begin("x", None)
    found.run(trials)
    return found


def settings(config: Config) -> tuple[int | None, str]:
    return config.trainer.max_epochs, config.loss.combine


def test_nothing_runs_twice_and_a_space_comes_to_its_end(
    tmp_path: Path, space: SearchSpace, trained: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    found = search(tmp_path / "search", space)
    assert len(trained) == len({settings(config) for config in trained}) == ALL
    assert settings(trained[0]) == settings(found.base)
    assert not trained[0].evaluation.test
    assert "that had not been tried before: the search ends" in capsys.readouterr().out
    best = found.ranked[0]
    assert (best.params, best.values) == ({"trainer.max_epochs": 2, "loss": "sum"}, [1.0])
    assert found.untuned is not None
    assert found.untuned.number == 0
    assert all(found.folder_of(trial).is_dir() for trial in found.ranked)


def test_a_search_continues_up_to_its_number_of_trials(
    tmp_path: Path, space: SearchSpace, trained: list[Config]
) -> None:
    search(tmp_path / "search", space, 2)
    assert len(trained) == 2
    found = search(tmp_path / "search", space, 4)
    assert len(trained) == len(found.ranked) == 4


def test_the_trial_of_a_dead_process_is_repeated(
    tmp_path: Path, space: SearchSpace, trained: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = mtl.training.run.train, []

    def killed(config: Config, folder: Path, choices: Any, **rest: Any) -> None:
        begin(folder, choices, asdict(absolute(config)))
        raise KeyboardInterrupt

    def watched(config: Config, folder: Path, choices: Any, *, resume: bool, **rest: Any) -> None:
        resumed.append((settings(config), resume))
        whole(config, folder, choices)

    monkeypatch.setattr(mtl.training.run, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "search", space, 2)
    monkeypatch.setattr(mtl.training.run, "train", watched)
    found = search(tmp_path / "search", space, 2)
    assert resumed[0] == (settings(found.base), True)
    assert [is_resumed for _, is_resumed in resumed] == [True, False]
    assert [trial.number for trial in found.ended()] == [1, 2]
    assert [trial.state for trial in found.study.trials] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]


def test_the_trial_of_a_living_process_is_left_alone(tmp_path: Path, space: SearchSpace, trained: list[Config]) -> None:
    other = Search(tmp_path / "search", space)
    other.begin("x", None)
    running = other.study.ask(other._distributions)
    running.set_user_attr("identity", "0" * 12)
    code = f"""
import pathlib, sys
from mtl.base.run_folder import in_use
with in_use(pathlib.Path({str(other.folder_of(running))!r})):
    print(flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = search(tmp_path / "search", space, 3)
        assert [trial.number for trial in found.running] == [0]
        assert len(found.ended()) == 2
        process.communicate(b"")
    assert found.running == []


def test_a_failed_trial_is_told_and_three_end_the_search(
    tmp_path: Path, space: SearchSpace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(config: Config, folder: Path, *rest: Any, **more: Any) -> None:
        if config.loss.combine == "dwa":
            raise DataError(Problem("a.csv", "nothing", "rows"))
        raise RuntimeError("out of everything")

    monkeypatch.setattr(mtl.training.run, "train", train)
    with pytest.raises(MtlError, match="the first 3 trials failed: RuntimeError: out of everything"):
        search(tmp_path / "search", space)
    assert "failed (RuntimeError: out of everything)" in capsys.readouterr().out
    logs = [path.read_text() for path in (tmp_path / "search").rglob("train.log")]
    assert any("Traceback" in log for log in logs)


def test_a_hopeless_trial_stops_early(tmp_path: Path, space: SearchSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def train(config: Config, folder: Path, choices: Any, *, resume: bool, stops_early: Any) -> None:
        runs.append(folder)
        begin(folder, choices, asdict(absolute(config)))
        if stops_early(5, 0.1 if len(runs) == ALL else 0.5):
            raise StoppedEarly
        val = report(predictions(labels(12), labels(12)))
        write_metrics(folder / "metrics.json", RunMetrics({"a": {"val": val}}, Cost(1.0, encoding_seconds=0.0)))

    monkeypatch.setattr(mtl.training.run, "train", train)
    found = search(tmp_path / "search", space, ALL)
    assert [trial.state for trial in found.ended()] == [TrialState.COMPLETE] * 5 + [TrialState.PRUNED]


def test_with_cost_the_best_at_each_cost_are_kept(tmp_path: Path, space: SearchSpace, trained: list[Config]) -> None:
    found = search(tmp_path / "search", space, costs=True)
    front = [(trial.params["trainer.max_epochs"], trial.params["loss"]) for trial in pareto_front(found)]
    assert front == [(2, "sum"), (1, "sum")]
    assert [trial.values for trial in pareto_front(found)] == [[1.0, 2.0], [found.ranked[1].values[0], 1.0]]


def test_a_search_starts_with_the_best_of_another_one_without_running_them_again(
    tmp_path: Path, space: SearchSpace, trained: list[Config]
) -> None:
    search(tmp_path / "first", space, 4)
    second = Search(tmp_path / "second", space)
    second.begin("y", tmp_path / "first")
    second.run(4)
    assert len(trained) == len(second.ranked) == 4
    with pytest.raises(DataError, match=f"no {JOURNAL}"):
        Search(tmp_path / "third", space).begin("y", tmp_path / "nothing")
    assert not (tmp_path / "third").exists()


def test_the_folder_of_another_search_and_a_damaged_journal(
    tmp_path: Path, space: SearchSpace, trained: list[Config]
) -> None:
    folder = tmp_path / "search"
    search(folder, space, 1)
    with pytest.raises(ConfigError, match="the search of another space, configuration, data or version"):
        Search(folder, space).begin("y", None)
    journal = folder / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "wor')  # a crash while it was written
    assert len(search(folder, space, 2).ranked) == 2
    journal.write_bytes(whole[:200].replace(b'"op_code"', b'"op"') + b"\n")
    with pytest.raises(DataError, match="a damaged journal"):
        Search(folder, space).begin("x", None)


def test_names_and_values_for_a_reader() -> None:
    assert short_names(["a.x", "b.y", "c.y", "z"]) == {"a.x": "x", "b.y": "b.y", "c.y": "c.y", "z": "z"}
    assert [shown(value) for value in (0.012345, 3, "mlp", True, None)] == ["0.0123", "3", "mlp", "true", "null"]


def test_optuna_says_nothing(tmp_path: Path, space: SearchSpace, capsys: pytest.CaptureFixture[str]) -> None:
    Search(tmp_path / "search", space).begin("x", None)
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING
    assert capsys.readouterr() == ("", "")
