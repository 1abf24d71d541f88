"""Two runs with one seed end with the same weights, bit for bit; with another seed they do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from mtl.model.saved import load_model
from tests.support.commands import call
from tests.support.runs import config, data, run

if TYPE_CHECKING:
    from pathlib import Path

SMALL = ["trainer.max_epochs=2", "calibration=none", "evaluation.error_analysis=false", "retention.path=null"]
SCENARIOS = {
    "full": ["heads=mlp"],
    "frozen": ["freeze=backbone"],
    "lower layers": ["freeze=lower_layers", "data.interleave=temperature"],
    "gradual, averaged": ["freeze=gradual", "freeze.gradual.start=1", "callbacks=average"],
    "one file, oversampled": ["data.tasks.sentiment.oversample=0.5", "loss.consistency=1"],
}


def weights(run_folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_model(run_folder).network.state_dict()
    return state


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("flags", SCENARIOS.values(), ids=SCENARIOS)
def test_one_seed_gives_one_result(flags: list[str], tmp_path: Path) -> None:
    files = data(tmp_path)
    for name, seed in {"one": 3, "again": 3, "other": 4}.items():
        torch.rand(seed + len(name))  # whatever happened before in this process
        run(tmp_path / name, *files, *SMALL, *flags, f"seed={seed}")
    found = weights(tmp_path / "one")
    assert same(found, weights(tmp_path / "again"))
    assert not same(found, weights(tmp_path / "other"))


@pytest.mark.slow
def test_another_process_has_the_same_result(tmp_path: Path) -> None:
    """Its hashes of texts, and so the order of its sets, are others."""
    files = [*data(tmp_path), *SMALL]
    run(tmp_path / "here", *files)
    small = ["backbone=tiny", "trainer=cpu", "trainer.precision=32-true", "logger=none", "data.batch_size=8"]
    small += ["evaluation.figures=false", "hydra.run.dir=there"]
    done = call("mtl.train", *files, *small, folder=tmp_path, PYTHONHASHSEED="7")
    assert done.returncode == 0, done.stderr
    assert config(*files).seed == 42
    assert same(weights(tmp_path / "here"), weights(tmp_path / "there"))
