"""The schedule of the rates is as long as training, whatever flag shortens it."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from mtl.evaluation.run_metrics import read_metrics
from mtl.model.saved import load_model
from mtl.training.checkpoints import read_checkpoint
from tests.support.runs import Probe, data, probed, run

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch import Trainer

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
    assert warnings == ["Trained on a part of the rows only (fast_dev_run)."]
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


def test_accumulated_batches_have_the_loss_of_whole_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the curves, in the lines of the epochs and in the page's figures, with at least one row of curves an epoch."""
    caplog.set_level("INFO")
    losses: dict[str, list[list[float]]] = {}
    files = data(tmp_path, train=16)
    still = ["learning_rates=uniform", "learning_rates.heads=1e-30", "heads.default.dropout=0"]
    for name, flags in {
        "whole": ["data.batch_size=16"],
        "parts": ["data.batch_size=4", "trainer.accumulate_grad_batches=4"],
    }.items():
        caplog.clear()
        run(tmp_path / name, *files, *still, *flags, "trainer.max_epochs=2", "freeze=backbone", "logger=csv")
        lines = [line for line in caplog.messages if line.startswith("epoch ")]
        shown = [float(line.split("train loss ")[1].split()[0]) for line in lines]
        with (tmp_path / name / "logs" / "metrics.csv").open(encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["train/loss"]]
        logged = [[float(row["train/loss"]) for row in rows if row["epoch"] == str(epoch)] for epoch in range(2)]
        assert all(logged)
        losses[name] = [shown, *logged]
    assert losses["parts"][0] == pytest.approx(losses["whole"][0], abs=0.03)
    assert np.mean(losses["parts"][1]) == pytest.approx(np.mean(losses["parts"][0]), abs=0.1)


class Validations(Probe):
    """Keeps the optimizer steps behind which validation ran, and asks for an end as Lightning's clock does."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.steps: list[int] = []
        self._left = stop_after

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._left is not None:
            self._left -= 1
            trainer.should_stop = self._left <= 0

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.steps.append(trainer.global_step)


@pytest.mark.parametrize(
    ("flags", "validated"),
    [  # five steps an epoch
        (["trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2"], [10, 15]),
        (["trainer.max_epochs=2", "trainer.val_check_interval=0.4"], [2, 4, 5 + 2, 5 + 4, 10]),
        (["trainer.max_epochs=2", "trainer.val_check_interval=5"], [5, 10]),
        (["trainer.max_epochs=null", "trainer.max_steps=7"], [5, 7]),
        (["trainer.max_epochs=2", "trainer.max_steps=3"], [3]),
        (["trainer.max_epochs=null", "trainer.max_steps=4", "trainer.accumulate_grad_batches=2"], [3, 4]),
    ],
)
def test_the_last_step_is_validated_and_saved(
    flags: list[str], validated: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validations = Validations()
    probed(monkeypatch, validations)
    run(tmp_path / "run", *data(tmp_path), *flags)
    assert validations.steps == validated
    checkpoints = tmp_path / "run" / "checkpoints"
    assert read_checkpoint(checkpoints / "last.ckpt")["global_step"] == validated[-1]


@pytest.mark.parametrize(
    ("batches", "flags", "validated"),
    [
        (7, [], [5, 7]),
        (7, ["trainer.check_val_every_n_epoch=2"], [7]),
        (3, ["trainer.min_steps=7"], [5, 7]),
        (3, ["trainer.min_epochs=2"], [5, 10]),
        (5, ["trainer.check_val_every_n_epoch=2"], [5]),
        (3, ["trainer.accumulate_grad_batches=2", "trainer.check_val_every_n_epoch=2"], [1]),
    ],
)
def test_so_is_the_step_at_which_time_is_up(
    batches: int, flags: list[str], validated: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validations = Validations(stop_after=batches)
    probed(monkeypatch, validations)
    run(tmp_path / "run", *data(tmp_path), "trainer.max_epochs=4", *flags)
    assert validations.steps == validated
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == validated[-1]


def test_a_best_state_behind_the_last_regular_validation_is_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.9])
    monkeypatch.setattr(
        "mtl.training.module.MultiTaskModule.on_validation_epoch_end",
        lambda module: module.log("val/macro_f1", torch.tensor(next(scores))),
    )
    run(tmp_path / "run", *data(tmp_path), "trainer.max_epochs=null", "trainer.max_steps=7")
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")["global_step"] == 7


@pytest.mark.parametrize("flags", [["trainer.limit_val_batches=0"], ["trainer.fast_dev_run=3"]])
def test_what_is_not_validated_stays_so(flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validations = Validations()
    probed(monkeypatch, validations)
    run(tmp_path / "run", *data(tmp_path), "trainer.max_epochs=1", *flags)
    assert validations.steps == ([] if "limit_val_batches" in flags[0] else [3])


def test_only_the_steps_that_are_due_are_logged(tmp_path: Path) -> None:
    """Not the batches that are accumulated before the first of them."""
    often = ["trainer.accumulate_grad_batches=2", "trainer.log_every_n_steps=2", "trainer.max_epochs=2", "logger=csv"]
    run(tmp_path / "run", *data(tmp_path), *often)
    with (tmp_path / "run" / "logs" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["train/loss"]] == [1, 3, 5]
    assert min(int(row["step"]) for row in rows) == 0  # where the gradients were measured
