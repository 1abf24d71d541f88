"""Whole runs with real trackers, on this machine: W&B offline, MLflow with SQLite, Trackio with its own folder."""

from __future__ import annotations

import json
import re
import sqlite3
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mtl.base.errors import ConfigError
from mtl.training.reevaluate import read_config
from mtl.training.run import train
from tests.support.runs import Probe, config, data, probed
from tests.support.runs import run as trained

if TYPE_CHECKING:
    from collections.abc import Callable

QUICK = ["trainer.max_epochs=2", "retention.path=null", "trainer.log_every_n_steps=1", "callbacks.progress=false"]
QUICK += ["evaluation.error_analysis=false", "evaluation.figures=true"]
FILES = {"config.yaml", "metrics.json", "report.md", "report.html", "model/README.md"}
FILES |= {"figures/sentiment_test_confusion.svg", "figures/training.svg"}
Seen = tuple[dict[str, dict[int, float]], dict[str, Any], set[str]]
"""The figures of each step by name, the settings, and the files that a tracker has of a run."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the trackers, in their own threads
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trackers that log on this machine, below ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    if find_spec("mlflow"):
        track_at(f"sqlite:///{tmp_path}/mlflow.db", monkeypatch)  # absolute: MLflow keeps a store for each address


def track_at(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MLflow log at an address; what a logger of Lightning has set for the process comes before the variable."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)


@pytest.fixture(scope="session")
def trackio_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of Trackio, which reads its variable when it is imported."""
    folder = tmp_path_factory.mktemp("trackio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(folder))
        pytest.importorskip("trackio")
    return folder


def of_mlflow() -> Seen:
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", Path.cwd().name + "_run")
    figures = {
        name: {point.step: point.value for point in client.get_metric_history(run.info.run_id, name)}
        for name in run.data.metrics
    }

    def files(folder: str | None = None) -> set[str]:
        found = client.list_artifacts(run.info.run_id, folder)
        return {path for file in found for path in (files(file.path) if file.is_dir else {file.path})}

    return figures, dict(run.data.params), files()


def of_trackio() -> Seen:
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = SQLiteStorage.get_run_records("mine")
    figures: dict[str, dict[int, float]] = {}
    for line in SQLiteStorage.get_logs("mine", run["name"], run_id=run["id"]):
        for name, value in line.items():
            if name not in ("step", "timestamp"):
                figures.setdefault(name, {})[line["step"]] = value
    settings = SQLiteStorage.get_run_config("mine", run["name"], run_id=run["id"])
    (artifact,) = SQLiteStorage.get_run_artifacts("mine", run["name"], run["id"])["output"]
    kept = SQLiteStorage.get_artifact_manifest("mine", artifact["name"], "latest")
    return figures, _flat(settings or {}), {entry["path"] for entry in kept["manifest"]}


def of_wandb() -> Seen:
    from wandb.proto import wandb_internal_pb2

    (file,) = Path("run").glob("wandb/offline-run-*/run-*.wandb")
    figures: dict[str, dict[int, float]] = {}
    settings: dict[str, Any] = {}
    files: set[str] = set()
    for content in _records(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(content)
        if record.HasField("history"):
            values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for name in values.keys() - {"trainer/global_step"}:
                if not name.startswith("_"):
                    figures.setdefault(name, {})[values["trainer/global_step"]] = values[name]
        for update in (record.config, record.run.config):
            settings |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in update.update}
        if record.HasField("request"):
            files |= {entry.path for entry in record.request.log_artifact.artifact.manifest.contents}
        files |= {entry.path for entry in record.artifact.manifest.contents}
    return figures, _flat(settings), files


def _records(content: bytes) -> list[bytes]:
    """Return the records of a log in LevelDB's format, behind 7 bytes of W&B's own."""
    at, parts, records = 7, b"", []
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            records.append(parts)
            parts = b""
    return records


def _flat(values: dict[str, Any], place: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{place}{key}/") if isinstance(value, dict) else {f"{place}{key}": value}
    return flat


@pytest.mark.parametrize(("kind", "seen"), [("mlflow", of_mlflow), ("wandb", of_wandb), ("trackio", of_trackio)])
def test_a_tracked_run(kind: str, seen: Callable[[], Seen], tmp_path: Path, trackio_folder: Path) -> None:
    """Curves, settings, figures and files arrive, and the figures are those of the run without a tracker."""
    pytest.importorskip(kind)
    quick = [*data(tmp_path), *QUICK]
    trained(tmp_path / "plain", *quick)
    trained(tmp_path / "run", *quick, f"logger={kind}", "logger.project=mine")
    figures, settings, files = seen()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["tasks"] == json.loads((tmp_path / "plain" / "metrics.json").read_text())["tasks"]
    assert sorted(figures["train/loss"]) == sorted(figures["rate/heads"])
    assert len(figures["train/loss"]) >= 8
    assert len(figures["val/sentiment/macro_f1"]) == 2
    scores = metrics["tasks"]["sentiment"]["test"]
    (macro,) = figures["final/test/sentiment/macro_f1"].values()
    assert macro == pytest.approx(scores["macro_f1"])
    (recall,) = figures["final/test/sentiment/good/recall"].values()
    assert recall == pytest.approx(scores["per_class"]["good"]["recall"])
    assert "final/val/classification/accuracy" in figures
    assert str(settings["trainer/max_epochs"]) == "2"
    assert settings["choices/freeze"] == "none"
    assert files >= FILES


def test_a_resumed_run_continues_its_curves(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    folder = tmp_path / "run"
    trained(folder, *data(tmp_path), *QUICK, "logger=mlflow", "logger.project=mine")
    before = of_mlflow()[0]["train/loss"]
    chosen = read_config(folder)
    chosen.trainer.max_epochs = 3
    train(chosen, folder, {}, resume=True)
    after = of_mlflow()[0]["train/loss"]
    assert len(after) == len(before) * 3 // 2
    assert {step: after[step] for step in before} == before


def test_a_store_that_breaks_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("mlflow")

    def breaks(_: object) -> None:
        with sqlite3.connect(tmp_path / "mlflow.db") as database:
            database.execute("DROP TABLE metrics")

    probed(monkeypatch, Probe(on_start=breaks))
    trained(tmp_path / "run", *data(tmp_path), *QUICK, "logger=mlflow", "logger.project=mine")
    assert (tmp_path / "run" / "metrics.json").is_file()
    warnings = [record.message for record in caplog.records if record.name == "mtl.training.trackers"]
    assert any("no such table: metrics" in text for text in warnings)
    assert any(re.fullmatch(r"mlflow: \d+ calls failed", text) for text in warnings)


@pytest.mark.parametrize(
    ("kind", "variables", "found", "repair"),
    [
        ("wandb", {"WANDB_MODE": "online"}, "PermissionError: no API key", "WANDB_MODE=offline"),
        (
            "wandb",
            {"WANDB_MODE": "online", "WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"},
            "127.0.0.1:9",
            "WANDB_MODE=offline",
        ),
        ("mlflow", {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, "127.0.0.1", "MLFLOW_TRACKING_URI"),
        ("mlflow", {"MLFLOW_TRACKING_URI": "file:./mlruns"}, "maintenance mode", "sqlite:///mlflow.db"),
        ("trackio", {"TRACKIO_SERVER_URL": "http://127.0.0.1:9"}, "write token", "TRACKIO_SERVER_URL"),
    ],
)
def test_no_login_or_no_network_is_an_error_before_training(
    kind: str,
    variables: dict[str, str],
    found: str,
    repair: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trackio_folder: Path,
) -> None:
    pytest.importorskip(kind)
    if kind == "wandb":
        import wandb

        wandb.teardown()  # it has read its variables
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if kind == "mlflow":
        track_at(variables["MLFLOW_TRACKING_URI"], monkeypatch)
    with pytest.raises(ConfigError) as caught:
        train(config(*data(tmp_path), *QUICK, f"logger={kind}"), tmp_path / "run", {})
    (problem,) = caught.value.problems
    assert found in problem.found
    assert repair in problem.repair
    assert not (tmp_path / "run" / "checkpoints").exists()
    if kind == "wandb":
        wandb.teardown()
