"""The schedule of the rates is as long as training, whatever flag shortens it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from mtl.artifact import load_model
from mtl.evaluation.metrics_file import read_metrics
from tests.support.runs import Probe, data, probed, run

if TYPE_CHECKING:
    from pathlib import Path

    from mtl.training.module import MultiTaskModule


class Rates:
    """Keeps the rate of the heads at each optimizer step, as a share of its peak."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.probe = Probe(before_step=self._look)

    def _look(self, module: MultiTaskModule) -> None:
        optimizer: Any = module.optimizers()
        self.seen.append(optimizer.param_groups[0]["lr"] / 0.01)


def falling(steps: int) -> list[float]:
    """Return a linear fall without warm-up from 1 to 0 after the last step."""
    return [1 - step / steps for step in range(steps)]


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        (["trainer.max_epochs=2"], 10),
        (["trainer.max_epochs=2", "trainer.max_steps=7"], 7),
        (["trainer.max_epochs=2", "trainer.max_steps=3"], 3),
        (["trainer.max_epochs=null", "trainer.max_steps=12"], 12),
        (["trainer.max_epochs=2", "trainer.accumulate_grad_batches=2"], 6),
        (["trainer.max_epochs=2", "trainer.accumulate_grad_batches=2", "trainer.max_steps=5"], 5),
        (["trainer.max_epochs=2", "trainer.limit_train_batches=0.5"], 4),
        (["trainer.max_epochs=2", "trainer.limit_train_batches=3"], 6),
        (["trainer.max_epochs=2", "trainer.fast_dev_run=true"], 1),
        (["trainer.max_epochs=2", "trainer.fast_dev_run=3"], 3),
        (["trainer.max_epochs=2", "trainer.val_check_interval=2"], 10),
        (["trainer.max_epochs=2", "trainer.check_val_every_n_epoch=2"], 10),
        (["trainer.max_epochs=2", "data.interleave=proportional"], 16),
        (["trainer.max_epochs=2", "freeze=backbone"], 10),
    ],
)
def test_the_rate_reaches_its_end_with_the_last_step(
    flags: list[str], steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = Rates()
    probed(monkeypatch, rates.probe)
    chosen = ["learning_rates.heads=0.01", "optimizer.warmup=0"]
    run(tmp_path / "run", *data(tmp_path), *chosen, *flags)
    assert rates.seen == pytest.approx(falling(steps))


def test_half_batches_accumulated_are_as_many_steps_of_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {}
    files = data(tmp_path, train=16)
    for name, flags in {
        "whole": ["data.batch_size=8"],
        "halves": ["data.batch_size=4", "trainer.accumulate_grad_batches=2"],
    }.items():
        probe = probed(monkeypatch, Probe())
        run(tmp_path / name, *files, *flags, "trainer.max_epochs=2")
        counts[name] = probe.optimizer_steps
        monkeypatch.undo()
    assert counts == {"whole": 12, "halves": 12}


def test_a_fast_run_writes_everything_and_says_that_it_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = probed(monkeypatch, Probe())
    run(tmp_path / "run", *data(tmp_path), "trainer.fast_dev_run=true", "logger=csv", "calibration=none")
    assert (probe.optimizer_steps, len(probe.figures)) == (1, 1)
    warnings = read_metrics(tmp_path / "run" / "metrics.json").run["warnings"]
    assert warnings == ["Trained on a part of the rows only (fast_dev_run or limit_train_batches)."]
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_accumulation_gives_the_step_of_the_mean_gradient(tmp_path: Path) -> None:
    """Without dropout, two batches of one row each and one of both have the same first step."""
    files = data(tmp_path, ["sentiment"], train=1)
    plain = ["optimizer.warmup=0", "trainer.max_epochs=1", "callbacks.keep_best=false", "freeze=backbone"]
    for name, flags in {
        "whole": ["data.batch_size=2"],
        "halves": ["data.batch_size=1", "trainer.accumulate_grad_batches=2"],
    }.items():
        run(tmp_path / name, *files, *plain, *flags, "heads.default.dropout=0")
    one, other = (load_model(tmp_path / name).network.state_dict() for name in ("whole", "halves"))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-5, atol=1e-7)
