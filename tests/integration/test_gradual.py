"""Gradual unfreezing by optimizer steps: what learns at which step and rate, what is told, and what is kept of it."""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from mtl.evaluation.run_metrics import read_metrics
from tests.support.runs import Probe, data, probed, run

if TYPE_CHECKING:
    from pathlib import Path

    from mtl.data.batch import Batch
    from mtl.training.module import MultiTaskModule

pytestmark = pytest.mark.usefixtures("whole_embeddings")

HEADS = {"heads.classification", "heads.sentiment"}
TOP = HEADS | {"layer.2"}
MORE = TOP | {"layer.1"}
ALL = MORE | {"layer.0", "embeddings"}
STEPS = ["freeze=gradual", "freeze.gradual.unit=steps", "freeze.gradual.start=2", "freeze.gradual.every=2"]
STEPS += ["freeze.gradual.layers=1", "learning_rates=uniform", "optimizer.warmup=0", "optimizer.schedule=constant"]


@dataclass
class Watch:
    """What was seen before each optimizer step, and in each batch.

    Attributes:
        learned: The layers that learn in each optimizer step.
        boundaries: For each batch the optimizer step, and what it brings: `ids`, `embedding`, or a layer's number.
        rates: The rate of each group in each optimizer step.
    """

    learned: list[set[str]] = field(default_factory=list)
    boundaries: list[tuple[int, Any]] = field(default_factory=list)
    rates: list[dict[str, float]] = field(default_factory=list)

    def probe(self) -> Probe:
        return Probe(before_batch=self._batch, before_step=self._step)

    def _batch(self, module: MultiTaskModule, batch: Batch) -> None:
        kind = "ids" if batch.features is None else "embedding" if batch.boundary is None else batch.boundary
        self.boundaries.append((module.global_step, kind))

    def _step(self, module: MultiTaskModule) -> None:
        network, optimizer = module.network, module.optimizers()
        layers = network.layer_names
        assert module.global_step == len(self.learned)
        self.learned.append(
            {layer for layer in layers if any(each.requires_grad for _, each in network.layer_parameters(layer))}
        )
        groups: Any = optimizer
        self.rates.append({group["name"]: group["lr"] for group in groups.param_groups})


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    found = Watch()
    probed(monkeypatch, found.probe())
    return found


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        (["trainer.max_epochs=2"], 10),
        (["trainer.max_epochs=2", "trainer.max_steps=7"], 7),
        (["trainer.max_epochs=4", "trainer.accumulate_grad_batches=2"], 12),
        (["trainer.max_epochs=4", "trainer.limit_train_batches=3"], 12),
        (["trainer.max_epochs=4", "trainer.limit_train_batches=0.7", "trainer.accumulate_grad_batches=3"], 4),
        (["trainer.max_epochs=2", "trainer.val_check_interval=1"], 10),
        (["trainer.max_epochs=2", "data.interleave=round_robin"], 16),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_learns_is_a_function_of_the_optimizer_step(
    flags: list[str], steps: int, tmp_path: Path, watch: Watch
) -> None:
    run(tmp_path / "run", *data(tmp_path), *STEPS, *flags, "callbacks.keep_best=false")
    stages = [HEADS] * 2 + [TOP] * 2 + [MORE] * 2 + [ALL] * 10
    assert watch.learned == stages[:steps]
    expected = ["embedding"] * 2 + [2] * 2 + [1] * 2 + ["ids"] * 10
    assert [kind for _, kind in watch.boundaries] == [expected[step] for step, _ in watch.boundaries]


def test_epochs_become_steps(tmp_path: Path, watch: Watch) -> None:
    flags = ["freeze=gradual", "freeze.gradual.stages={1: 1, 3: 1}", "trainer.max_epochs=4"]
    run(tmp_path / "run", *data(tmp_path), *flags, "trainer.limit_train_batches=3", "trainer.accumulate_grad_batches=2")
    assert watch.learned == [HEADS] * 2 + [TOP] * 4 + [MORE] * 2


def test_rates_of_a_stage_rise_from_its_start_times_the_schedule_of_the_whole(tmp_path: Path, watch: Watch) -> None:
    flags = ["freeze.gradual.warmup=4", "optimizer.schedule=linear", "trainer.max_epochs=2"]
    logged = ["logger=csv", "trainer.log_every_n_steps=1"]
    run(tmp_path / "run", *data(tmp_path), *STEPS, *flags, *logged)
    falling = [1 - step / 10 for step in range(10)]

    def ramp(start: int) -> list[float]:
        return [min(1.0, max(0.0, (step - start + 1) / 4)) for step in range(10)]

    starts = {"backbone/stage_2": 2, "backbone/stage_3": 4, "backbone/stage_4": 6}
    expected = {"heads": [1e-4 * each for each in falling]}
    for name, start in starts.items():
        expected[name] = [2e-5 * one * two for one, two in zip(falling, ramp(start), strict=True)]
    for name, values in expected.items():
        assert [rates[name] for rates in watch.rates] == pytest.approx(values), name
        assert [rates[f"{name}/no_decay"] for rates in watch.rates] == pytest.approx(values), name
    with (tmp_path / "run" / "logs" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["rate/heads"]]
    for name, values in expected.items():
        assert [float(row[f"rate/{name}"]) for row in rows] == pytest.approx(values), name


def test_each_stage_tells_what_trains_now(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    stages = "freeze.gradual.stages={2: 1, 7: all}"
    run(tmp_path / "run", *data(tmp_path), *STEPS, stages, "trainer.max_epochs=2")
    metrics = read_metrics(tmp_path / "run" / "metrics.json")
    counts = [each["parameters"] for each in metrics.run["unfreezing"]]
    assert counts[0] == 32 * 3 + 3 + 32 * 2 + 2
    assert counts[-1] == metrics.cost.trainable_parameters == metrics.cost.total_parameters
    lines = [record.getMessage() for record in caplog.records if ": trains " in record.getMessage()]
    heads = "heads.classification, heads.sentiment"
    assert lines == [
        f"epoch 1, step 1: trains {heads}; {counts[0]:,} parameters at heads 0.0001",
        f"epoch 1, step 3: trains layer.2, {heads}; {counts[1]:,} parameters at heads 0.0001, backbone 2e-05",
        f"epoch 2, step 8: trains embeddings, layer.0–2, {heads}; {counts[2]:,} parameters at heads 0.0001, "
        "backbone 2e-05",
    ]
    table = capsys.readouterr().out.partition("Gradual unfreezing")[2]
    assert [each["start"] for each in metrics.run["unfreezing"]] == ["step 1", "step 3", "step 8"]
    assert all(f"{count:,}" in table for count in counts)
    report = " ".join((tmp_path / "run" / "report.md").read_text(encoding="utf-8").split())
    assert "| 2 | step 3 | layer.2 |" in report
    assert "| trained from step 3 |" in report


def test_a_stage_behind_the_end_of_training_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path / "run", *data(tmp_path), *STEPS, "freeze.gradual.stages={2: 1, 90: 1}", "trainer.max_epochs=2")
    expected = "training stops after step 10, before layer.1 unfreezes at step 91: it will not be trained"
    assert expected in caplog.messages


def test_nothing_of_stages_where_all_learns_from_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(tmp_path / "run", *data(tmp_path), "freeze=none", "trainer.max_epochs=1")
    assert "unfreezing" not in read_metrics(tmp_path / "run" / "metrics.json").run
    assert not [message for message in caplog.messages if "trains" in message]
