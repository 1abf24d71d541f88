"""Activations that are computed once give the same training as running the frozen layers in every step."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mtl.activations.frozen import FrozenActivations
from mtl.training.run import train
from tests.support.configs import compose_config

WORDS = ["good", "bad", "the", "battery", "screen", "love", "hate", "it", "works", "never", "again", "fine"]

QUICK = ["retention.path=null", "evaluation.figures=false", "evaluation.error_analysis=false"]


def write_rows(path: Path, labels: list[str], count: int, seed: int) -> str:
    generator = torch.Generator().manual_seed(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for at in range(count):
            length = int(torch.randint(2, 14, (1,), generator=generator))
            words = [WORDS[int(torch.randint(len(WORDS), (1,), generator=generator))] for _ in range(length)]
            writer.writerow([f"{' '.join(words)} {at % 25}", labels[at % len(labels)]])
    return str(path)


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    topic = write_rows(tmp_path / "topic.csv", ["a", "b", "c"], 60, seed=1)
    mood = write_rows(tmp_path / "mood.csv", ["no", "yes"], 40, seed=1)  # shares sentences with the other task
    return [
        "data=files",
        f"++data.tasks.topic.path={topic}",
        f"++data.tasks.mood.path={mood}",
        "data.batch_size=8",
        "backbone=tiny",
        "trainer=cpu",
        "trainer.precision=32-true",
        "trainer.max_epochs=3",
        "learning_rates.upper=1e-2",
        "learning_rates.lower=1e-2",
        "optimizer.eps=1e-5",  # Adam divides by tiny second moments otherwise, and makes rounding errors into steps
    ]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """All weights but the biases of keys: softmax is blind to them, so Adam moves them by rounding errors alone."""
    found = {**load_file(run / "model/model.safetensors"), **load_file(run / "model/heads.safetensors")}
    return {name: value for name, value in found.items() if not name.endswith("attn.k.bias")}


def assert_same_figures(found: Path, expected: Path) -> None:
    """The same counts, and figures of probabilities that differ by rounding at most."""
    counts, others = ([*map(counted, reports(run))] for run in (found, expected))
    assert counts == others
    for one, other in zip(reports(found), reports(expected), strict=True):
        for measure in ("nll", "brier"):
            expected_value = other["calibration"]["before"][measure]
            assert one["calibration"]["before"][measure] == pytest.approx(expected_value, abs=1e-4), measure


def reports(run: Path) -> list[dict[str, Any]]:
    tasks = json.loads((run / "metrics.json").read_text())["tasks"]
    return [report for splits in tasks.values() for report in splits.values()]


def counted(report: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if name != "calibration"}


BY_STEPS = [
    "freeze=gradual",
    "freeze.gradual.unit=steps",
    "freeze.gradual.stages={3: 1, 6: 1, 13: all}",  # within an epoch, and where one begins
    "freeze.gradual.warmup=2",
]


@pytest.mark.parametrize(
    "freeze",
    [
        ["freeze=backbone"],
        ["freeze=lower_layers"],
        ["freeze=gradual", "freeze.gradual.layers=1"],
        BY_STEPS,
        [*BY_STEPS, "++trainer.val_check_interval=2"],
        ["freeze=lora", "freeze.train_layers=1", "learning_rates.lora=1e-2"],
    ],
    ids=["backbone", "lower_layers", "gradual", "by_steps", "by_steps_validated_often", "lora"],
)
def test_cached_and_plain_training_give_the_same_model(freeze: list[str], overrides: list[str], tmp_path: Path) -> None:
    chosen = [*overrides, *freeze]
    for name, cached in (("plain", False), ("cold", True), ("warm", True)):
        train(compose_config([*chosen, f"cache.activations={cached}"]), tmp_path / name)

    plain = weights(tmp_path / "plain")
    for name in ("cold", "warm"):
        model = weights(tmp_path / name)
        assert plain.keys() == model.keys()
        for key in plain:
            torch.testing.assert_close(model[key], plain[key], rtol=0, atol=1e-5, msg=f"{name}: {key}")
        assert_same_figures(tmp_path / name, tmp_path / "plain")


def test_a_warm_cache_runs_no_layer_again(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = compose_config([*overrides, "freeze=lower_layers"])
    train(chosen, tmp_path / "first")
    computed: list[object] = []
    monkeypatch.setattr(
        FrozenActivations, "_compute", lambda self, store, boundary, table, *_: computed.append(len(table))
    )
    train(chosen, tmp_path / "second")
    assert computed == []


@pytest.mark.parametrize("freeze", ["backbone", "lower_layers", "gradual", "none"])
def test_a_warm_run_tells_the_cost_of_a_cold_one(
    freeze: str, overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTL_CACHE_DIR", str(tmp_path / "cache"))
    costs = []
    for name in ("cold", "warm"):
        train(compose_config([*overrides, f"freeze={freeze}", *QUICK]), tmp_path / name)
        costs.append(json.loads((tmp_path / name / "metrics.json").read_text())["cost"])
    cold, warm = costs
    assert warm["encoding_seconds"] == cold["encoding_seconds"]
    assert (cold["encoding_seconds"] > 0) == (freeze != "none")
    for cost in costs:
        assert cost["total_seconds"] == pytest.approx(cost["train_seconds"] + cost["encoding_seconds"])
        # 3 epochs; a paired step has 8 rows of each task, and the shorter task starts over
        assert cost["sentences_per_second"] * cost["total_seconds"] == pytest.approx(3 * 2 * 48, abs=48)


def test_a_cache_that_is_full_changes_no_figure(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MTL_CACHE_DIR", str(tmp_path / "cache"))
    for freeze in ("backbone", "lower_layers"):
        chosen = compose_config([*overrides, f"freeze={freeze}"])
        train(chosen, tmp_path / f"{freeze}-roomy")
        monkeypatch.setenv("MTL_CACHE_DIR", str(tmp_path / "small"))
        monkeypatch.setenv("MTL_CACHE_LIMIT", "1KB")
        train(chosen, tmp_path / f"{freeze}-tight")
        monkeypatch.delenv("MTL_CACHE_LIMIT")
        assert_same_figures(tmp_path / f"{freeze}-roomy", tmp_path / f"{freeze}-tight")
    assert "MTL_CACHE_LIMIT" in caplog.text
