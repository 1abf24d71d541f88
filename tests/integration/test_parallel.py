"""Several processes train as one with the whole batch does, in every freeze scenario."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch.distributed.tensor import DTensor

from mtl.model.network import MultiTaskNetwork
from mtl.training import run
from mtl.training.sharding import ShardedEncoder
from tests.support import runs
from tests.support.ranks import train_in_several

TOLERANCE = 1e-5
"""Of a weight and of a loss after some twenty steps; sums over rows are added up in another order."""
BATCH = 3
SCENARIOS: dict[str, list[str]] = {
    "none": ["freeze=none"],
    "token budget": ["freeze=none", "data.max_tokens=24", "data.batch_size=5"],
    "proportional": ["freeze=none", "data.interleave=proportional"],
    "temperature": ["freeze=none", "data.interleave=temperature"],
    "accumulated": ["freeze=none", "trainer.accumulate_grad_batches=2"],
    "backbone": ["freeze=backbone"],
    "backbone, not cached": ["freeze=backbone", "cache.activations=false"],
    "lower layers": ["freeze=lower_layers"],
    "classification head": ["freeze=classification_head"],
    "sentiment head, proportional": ["freeze=sentiment_head", "data.interleave=proportional"],
    "gradual": ["freeze=gradual", "freeze.gradual.layers=1", "trainer.max_epochs=3"],
    "gradual by steps": ["freeze=gradual", "freeze.gradual.unit=steps", "freeze.gradual.stages={2: 1, 7: 1, 9: all}"],
    "lora": ["freeze=lora", "freeze.lora.dropout=0.0", "learning_rates.lora=1e-2"],
    "averaged": ["freeze=none", "callbacks=average"],
    "uncertainty": ["freeze=none", "loss=uncertainty"],
    "famo": ["freeze=none", "loss=famo"],
    "dwa": ["freeze=none", "loss=dwa", "loss.dwa.window=4"],
    "focal, consistent": ["freeze=none", "loss.default.kind=focal", "loss.consistency=0.5"],
    "multi-stage head": [
        "freeze=none",
        "heads.classification=multi_stage",
        "heads.classification.tree={thing: [price, screen], other: [delivery]}",
    ],
}


@pytest.fixture(scope="module")
def plain(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny backbone without dropout: processes draw it each for its own rows."""
    folder = tmp_path_factory.mktemp("plain") / "backbone"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def common(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    uneven = [*runs.data(folder, ["classification"], train=7, other=3), *runs.data(folder, ["sentiment"], train=5)]
    return [
        *dict.fromkeys(uneven),
        f"backbone.path={plain}",
        "heads.default.dropout=0.0",
        f"data.batch_size={BATCH}",
        "trainer.max_epochs=2",
        "trainer.log_every_n_steps=1",
        "learning_rates.upper=1e-2",
        "learning_rates.lower=1e-2",
        "optimizer.eps=1e-5",  # as in test_frozen_activations
        "logger=csv",
        "callbacks.gradients.every_n_steps=3",
        "retention.path=null",
    ]


def in_one(overrides: list[str], number: int) -> list[str]:
    """The same for one process in place of several: all their rows, all their tokens."""
    return [
        f"{key}={number * int(value)}" if key in ("data.batch_size", "data.max_tokens") else f"{key}={value}"
        for key, _, value in (each.partition("=") for each in overrides)
    ]


def chosen(*overrides: str) -> list[str]:
    return list({each.partition("=")[0]: each for each in overrides}.values())


def learned(folder: Path) -> dict[str, torch.Tensor]:
    """What the last checkpoint holds, but for the biases of keys, which softmax is blind to."""
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return {
        name: value
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and not name.endswith("attn.k.bias")
    }


def curves(folder: Path) -> list[dict[str, float]]:
    with (folder / "logs/metrics.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def assert_same(found: Path, expected: Path) -> None:
    one, other = learned(found), learned(expected)
    assert one.keys() == other.keys()
    worst = {name: float((one[name].float() - other[name].float()).abs().max()) for name in one if one[name].numel()}
    assert max(worst.values()) < TOLERANCE, {name: gap for name, gap in worst.items() if gap >= TOLERANCE}
    for row, same in zip(curves(found), curves(expected), strict=True):
        assert row == pytest.approx(same, abs=2 * TOLERANCE)


def compare(names: list[str], common: list[str], folder: Path, number: int = 2, *others: str) -> None:
    """Compare several processes with one; ``others`` are overrides of both."""
    jobs = {folder / name / "several": chosen(*common, *SCENARIOS[name], *others) for name in names}
    train_in_several(number, jobs, folder / "jobs.json")
    for name in names:
        alone = folder / name / "one"
        alone.mkdir(parents=True)
        run.follow(runs.config(*in_one(jobs[folder / name / "several"], number)), alone, None, resume=False)
        assert any("train/loss" in row for row in curves(alone))
    failed = []
    for name in names:
        try:
            assert_same(folder / name / "several", folder / name / "one")
        except AssertionError as error:
            failed.append(f"{name}: {error}")
    assert not failed, "\n".join(failed)


@pytest.mark.slow
@pytest.mark.parametrize("number", [3, 4])
def test_more_processes_train_as_one_does(number: int, common: list[str], tmp_path: Path) -> None:
    """Some without rows of a task, or of any, in the last step of an epoch."""
    compare(["accumulated", "gradual by steps", "lora", "uncertainty"], common, tmp_path, number)


SHARDED = ("trainer.strategy=fsdp", "callbacks.gradients=null")


def test_a_sharded_encoder_is_trained_as_a_whole_one_quick(common: list[str], tmp_path: Path) -> None:
    held: list[tuple[int, int]] = []

    def shard(strategy: ShardedEncoder, network: MultiTaskNetwork) -> MultiTaskNetwork:
        shards = usual(strategy, network)
        for own, whole in zip(shards.encoder.parameters(), network.encoder.parameters(), strict=True):
            assert isinstance(own, DTensor)
            held.append((own.to_local().numel(), whole.numel()))
        return shards

    usual = ShardedEncoder.shard
    with mock.patch.object(ShardedEncoder, "shard", shard):
        compare(["gradual by steps"], common, tmp_path, 2, *SHARDED)
    own, whole = (sum(numbers) for numbers in zip(*held, strict=True))
    assert 0.4 < own / whole < 0.6


@pytest.mark.slow
def test_a_sharded_encoder_is_trained_as_a_whole_one(common: list[str], tmp_path: Path) -> None:
    compare(list(SCENARIOS), common, tmp_path, 2, *SHARDED)


@pytest.mark.slow
def test_an_encoder_in_three_shards_is_trained_as_a_whole_one(common: list[str], tmp_path: Path) -> None:
    """Also where a process has no row of a step."""
    compare(["accumulated", "averaged", "lower layers", "lora"], common, tmp_path, 3, *SHARDED)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
def test_a_run_is_resumed_in_another_number_of_processes(
    before: int, after: int, strategy: str, common: list[str], tmp_path: Path
) -> None:
    """It ends with the weights of one process that was not interrupted."""
    flags = ["freeze=gradual", "freeze.gradual.layers=1", "optimizer.schedule=constant", "optimizer.warmup=0"]
    flags += [*SHARDED, "callbacks=average"] if strategy == "fsdp" else []

    def share(number: int) -> list[str]:
        return [*chosen(*common, *flags, f"data.batch_size={12 // number}", f"data.max_tokens={600 // number}")]

    whole, folder = tmp_path / "whole", tmp_path / "run"
    train_in_several(1, {whole: share(1)}, tmp_path / "whole.json")
    train_in_several(before, {folder: chosen(*share(before), "trainer.max_epochs=1")}, tmp_path / "before.json")
    train_in_several(after, {folder: share(after)}, tmp_path / "after.json", resume=True)
    assert_same(folder, whole)


def test_two_processes_train_as_one_does_quick(common: list[str], tmp_path: Path) -> None:
    compare(["token budget", "gradual by steps"], common, tmp_path)


@pytest.mark.slow
def test_two_processes_train_as_one_does(common: list[str], tmp_path: Path) -> None:
    compare(list(SCENARIOS), common, tmp_path)
