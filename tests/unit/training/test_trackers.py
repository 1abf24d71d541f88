"""Trackers: what a service gets, and that it neither holds up nor ends a run."""

from __future__ import annotations

import importlib.util
import logging
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from mtl.base.errors import ConfigError
from mtl.training import trackers
from mtl.training.inputs import TRACKERS, _packages
from mtl.training.trackers import IDENTITIES, TrackedRun, Tracker, label_names, tracking
from tests.support.runs import config

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Service:
    """A service that keeps what it gets."""

    repair = "start the server"

    def __init__(self, run: TrackedRun) -> None:
        self.run = run
        self.identity = run.identity or "first"
        self.location = "here"
        self.calls: list[tuple[Any, ...]] = []
        self.gate = threading.Event()
        self.gate.set()

    def settings(self, values: Mapping[str, Any]) -> None:
        self._take("settings", values)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        if "bad" in values:
            raise OSError("connection reset")
        self._take("metrics", values, step)

    def files(self, folder: Path, paths: Sequence[str]) -> None:
        self._take("files", folder, paths)

    def end(self, *, failed: bool) -> None:
        self._take("end", failed)

    def _take(self, *call: Any) -> None:
        assert self.gate.wait(60)
        self.calls.append(call)


def started(**run: Any) -> tuple[Tracker, Service]:
    service = Service(TrackedRun(**{"folder": None, "project": None, "name": "a", **run}))
    tracker = Tracker("mlflow", lambda: service)
    assert tracker.started.result(60) is service
    return tracker, service


def prepared(folder: Path, *overrides: str, resume: bool = False) -> Any:
    """Return what `tracking` needs of a run."""
    plan = SimpleNamespace(config=config("logger=mlflow", *overrides), folder=folder)
    return SimpleNamespace(plan=plan, resume=resume, training=SimpleNamespace(trainer=SimpleNamespace(loggers=["csv"])))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Service]:
    """The services that `tracking` opens from now on."""
    services: list[Service] = []

    def start(run: TrackedRun) -> Service:
        services.append(Service(run))
        return services[-1]

    monkeypatch.setattr(trackers, "_SERVICES", {"mlflow": start})
    return services


def test_a_slow_service_holds_nothing_up_and_gets_everything_in_order() -> None:
    tracker, service = started()
    service.gate.clear()
    for step in range(3):
        tracker.log_metrics({"loss": torch.tensor(0.5), "epoch": 0}, step)
    tracker.log_metrics({"f1": 1.0})
    assert service.calls == []  # all four calls have returned
    service.gate.set()
    tracker.end(failed=False)
    assert service.calls == [
        *(("metrics", {"loss": 0.5, "epoch": 0.0}, step) for step in range(3)),
        ("metrics", {"f1": 1.0}, 2),
        ("end", False),
    ]


def test_a_call_that_fails_is_one_warning_and_the_next_ones_are_made(caplog: pytest.LogCaptureFixture) -> None:
    tracker, service = started()
    for values in ({"bad": 1.0}, {"good": 1.0}, {"bad": 2.0}):
        tracker.log_metrics(values, 0)
    tracker.end(failed=False)
    assert service.calls == [("metrics", {"good": 1.0}, 0), ("end", False)]
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.WARNING, "mlflow: OSError: connection reset; the run continues, and this is missing there"),
        (logging.WARNING, "mlflow: 2 calls failed"),
    ]


def test_the_end_waits_a_limited_time(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(trackers, "_CLOSING", {False: 0.0, True: 0.0})
    tracker, service = started()
    service.gate.clear()
    tracker.log_metrics({"loss": 1.0}, 0)
    tracker.end(failed=False)
    assert [record.message for record in caplog.records] == ["mlflow: not everything was sent within 0 s"]
    service.gate.set()
    tracker._thread.join(60)
    assert [call[0] for call in service.calls] == ["metrics", "end"]


def test_a_new_run_is_named_and_told_its_settings(tmp_path: Path, opened: list[Service]) -> None:
    folder = tmp_path / "2026-11-24" / "14-49-28"
    folder.mkdir(parents=True)
    run = prepared(folder)
    with tracking(run, {"freeze": "none"}, of_sweep=False) as made:
        assert run.training.trainer.loggers == ["csv", *made]
    (service,) = opened
    assert service.run == TrackedRun(folder, None, "2026-11-24_14-49-28")
    (kind, settings), end = service.calls
    assert (kind, end) == ("settings", ("end", False))
    assert settings["choices"] == {"freeze": "none"}
    assert settings["optimizer"]["kind"] == "adamw"
    assert (folder / IDENTITIES).is_file()


def test_a_resumed_run_is_continued_where_it_is_known(tmp_path: Path, opened: list[Service]) -> None:
    for resume in (False, True, True):
        with tracking(prepared(tmp_path, resume=resume), {}, of_sweep=False):
            pass
        if len(opened) == 2:
            (tmp_path / IDENTITIES).write_text("{")
    assert [service.run.identity for service in opened] == [None, "first", None]
    assert [[call[0] for call in service.calls] for service in opened] == [
        ["settings", "end"],
        ["end"],
        ["settings", "end"],
    ]


def test_the_jobs_of_a_sweep_are_a_group(tmp_path: Path, opened: list[Service]) -> None:
    named = ["logger.project=p", "logger.name=n", "logger.group=g"]
    for overrides in ([], named):
        with tracking(prepared(tmp_path / "sweep" / "0", *overrides), {}, of_sweep=True):
            pass
    names = [(service.run.project, service.run.name, service.run.group) for service in opened]
    assert names == [(None, "sweep_0", f"{tmp_path.name}_sweep"), ("p", "n", "g")]


def test_a_run_that_fails_has_failed_there_too(tmp_path: Path, opened: list[Service]) -> None:
    with pytest.raises(KeyboardInterrupt), tracking(prepared(tmp_path), {}, of_sweep=False):
        raise KeyboardInterrupt
    assert opened[0].calls[-1] == ("end", True)


def test_a_trial_is_not_tracked(tmp_path: Path, opened: list[Service]) -> None:
    with tracking(prepared(tmp_path, "trainer.fast_dev_run=true"), {}, of_sweep=False) as made:
        assert made == []
    assert opened == []


def test_a_tracker_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(Service):
        def __init__(self, run: TrackedRun) -> None:
            raise ConnectionError("no\x1broute\nto host")

    monkeypatch.setattr(trackers, "_SERVICES", {"mlflow": Refusing})
    with pytest.raises(ConfigError) as caught, tracking(prepared(tmp_path), {}, of_sweep=False):
        pass
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  logger\n"
        "      found:    mlflow, which cannot be opened: ConnectionError: no\\x1broute to host\n"
        "      expected: a tracker that can be reached\n"
        "      repair:   start the server; or logger=csv"
    )
    assert not (tmp_path / IDENTITIES).exists()


@pytest.mark.parametrize("kind", TRACKERS)
def test_a_package_that_is_not_installed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        _packages(config(f"logger={kind}"))
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  logger\n"
        f"      found:    {kind}, and the Python package {kind} is not installed\n"
        f"      expected: the extra {kind}\n"
        f"      repair:   pip install 'mtl[{kind}]', or logger=csv"
    )


def test_names_of_labels_differ() -> None:
    labels = ["a b", "a/b", "größe", "..", "1.5", "x" * 200]
    assert label_names(labels) == ["a_b_0", "a_b_1", "größe", "_", "1_5", "x" * 80]
