"""A loss or gradient that is NaN or infinite: the weights never see it, its rows are written down, the run says so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from mtl.base.errors import Problem, TrainingError
from mtl.evaluation.run_metrics import read_metrics
from mtl.training.averaging import AveragedWeights
from mtl.training.checkpoints import read_checkpoint
from mtl.training.run import train
from tests.support.commands import run as command
from tests.support.ranks import train_in_several
from tests.support.runs import Probe, config, data, probed, run

if TYPE_CHECKING:
    from pathlib import Path

    from mtl.training.module import MultiTaskModule

STEPS = 5  # of an epoch over 12 rows of each of 3 classes, in batches of 8
NAN = float("nan")


class Spoilt:
    """Spoils the loss or the gradients of chosen steps (from 1) and keeps the weights before and after each.

    Args:
        steps: Which steps.
        value: What stands in for what they computed.
        gradients: Whether to spoil a gradient, and leave the loss as it is.
    """

    def __init__(self, *steps: int, value: float = NAN, gradients: bool = False) -> None:
        self.steps, self.value, self.gradients = steps, value, gradients
        self.weights: list[dict[str, torch.Tensor]] = []
        self.batches: list[Any] = []
        self.probe = Probe(on_start=self.start, before_batch=self.before, after_batch=self.after)
        self.number = 0

    def start(self, module: MultiTaskModule) -> None:
        self.weights.append(self.copy(module))
        module.network.head("classification").register_forward_hook(self._spoil)
        head: Any = next(module.network.heads.parameters())
        head.register_hook(lambda grad: grad * self.value if self.gradients and self.number in self.steps else grad)

    def _spoil(self, head: Any, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        return logits * self.value if head.training and self.number in self.steps and not self.gradients else logits

    def before(self, module: MultiTaskModule, batch: Any) -> None:
        self.number += 1
        self.batches.append(batch)

    def after(self, module: MultiTaskModule, batch: Any) -> None:
        self.weights.append(self.copy(module))

    def copy(self, module: MultiTaskModule) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in module.network.named_parameters()}

    def changed(self) -> list[bool]:
        """Return whether each step changed the weights."""
        pairs = zip(self.weights, self.weights[1:], strict=False)
        return [any(not torch.equal(one[name], other[name]) for name in one) for one, other in pairs]


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> Any:
    def prepare(*steps: int, **how: Any) -> Spoilt:
        found = Spoilt(*steps, **how)
        probed(monkeypatch, found.probe)
        return found

    return prepare


ONE = ["trainer.max_epochs=1", "optimizer.warmup=0"]


@pytest.mark.parametrize("flags", [[], ["freeze=backbone"], ["trainer.gradient_clip_val=null"]])
@pytest.mark.parametrize("how", [{"value": NAN}, {"value": float("inf")}, {"value": NAN, "gradients": True}])
def test_a_run_stops_before_the_weights_change(
    how: dict[str, Any], flags: list[str], spoilt: Any, tmp_path: Path
) -> None:
    found = spoilt(3, **how)
    with pytest.raises(TrainingError):
        run(tmp_path / "run", *data(tmp_path), *ONE, *flags)
    assert found.changed() == [True, True]  # of the third there is no end
    assert all(value.isfinite().all() for value in found.weights[-1].values())


def test_what_a_stopped_run_says_and_leaves(spoilt: Any, tmp_path: Path) -> None:
    found = spoilt(STEPS + 2)
    with pytest.raises(TrainingError) as error:
        run(tmp_path / "run", *data(tmp_path), "trainer.max_epochs=2")
    path = tmp_path / "run" / "bad_steps" / f"step_{STEPS + 2}.json"
    assert error.value.problems == (
        Problem(
            "step 7 (epoch 2)",
            f"a loss that is not finite: classification nan; its rows are in {path}",
            "a finite loss and finite gradients",
            "one of these:\n"
            "      - lower rates: learning_rates=… with smaller values, or more optimizer.warmup\n"
            "      - look into the rows; to continue without such steps: callbacks.bad_steps.action=skip\n"
            f"      - the last good state is in {tmp_path}/run/checkpoints/last.ckpt",
        ),
    )
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["step"], content["epoch"], content["gradient_norm"]) == (7, 2, "nan")
    assert content["losses"][0]["classification"] == "nan"
    assert float(content["losses"][0]["sentiment"]) > 0
    rows = {(row["task"], row["file"], row["line"], row["text"], row["label"]) for row in content["rows"]}
    assert rows == in_files(tmp_path, found.batches[-1])
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    for name, value in checkpoint["state_dict"].items():
        if name.startswith("network."):
            torch.testing.assert_close(value, found.weights[STEPS][name.removeprefix("network.")], rtol=0, atol=0)
    assert not (tmp_path / "run" / "metrics.json").exists()


def in_files(folder: Path, batch: Any) -> set[tuple[str, str, int, str, str]]:
    """Return the rows of a batch as they stand in the files of `data`."""
    found = set()
    for task, indices in batch.indices.items():
        path = folder / f"{task}_train.csv"
        lines = path.read_text(encoding="utf-8").splitlines()
        for row in indices.tolist():
            text, _, label = lines[row + 1].rpartition(",")
            found.add((task, str(path), row + 2, text, label))
    return found


def test_a_gradient_alone(spoilt: Any, tmp_path: Path) -> None:
    spoilt(1, gradients=True)
    flags = ["trainer.precision=bf16-mixed", "trainer.gradient_clip_val=null", "callbacks.bad_steps.action=skip"]
    with pytest.raises(TrainingError) as error:
        run(tmp_path / "run", *data(tmp_path), *flags, "callbacks.bad_steps.most_in_a_row=1")
    assert error.value.problems == (
        Problem(
            "step 1 (epoch 1)",
            "gradients that are not finite (norm nan) of a finite loss over 16 rows; its rows are in "
            f"{tmp_path}/run/bad_steps/step_1.json",
            "a finite loss and finite gradients",
            "one of these:\n"
            "      - lower rates: learning_rates=… with smaller values, or more optimizer.warmup\n"
            "      - trainer.precision=32-true in place of bf16-mixed\n"
            "      - trainer.gradient_clip_val=5.0, which is off",
        ),
    )


def test_a_run_that_skips_goes_on_without_the_step(spoilt: Any, tmp_path: Path) -> None:
    found = spoilt(2, 4)
    run(tmp_path / "run", *data(tmp_path), *ONE, "callbacks.bad_steps.action=skip")
    assert found.changed() == [True, False, True, False, True]
    assert sorted(path.name for path in (tmp_path / "run" / "bad_steps").iterdir()) == ["step_2.json", "step_4.json"]
    metrics = read_metrics(tmp_path / "run" / "metrics.json")
    assert metrics.cost.skipped_steps == 2
    warnings = metrics.run["warnings"]
    told = "2 steps were left out of training: loss or gradients were not finite. See bad_steps/ in the run folder."
    assert warnings[0] == told


def test_a_resumed_run_still_knows_what_it_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [*data(tmp_path), "trainer.max_epochs=2", "callbacks.bad_steps.action=skip", "callbacks.save_every_steps=1"]
    with monkeypatch.context() as patch:
        found = Spoilt(2)

        def after(module: MultiTaskModule, batch: Any) -> None:
            if found.number == 4:
                raise KeyboardInterrupt

        probed(patch, Probe(on_start=found.start, before_batch=found.before, after_batch=after))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", *flags)
    train(config(*flags), tmp_path / "run", resume=True)
    metrics = read_metrics(tmp_path / "run" / "metrics.json")
    assert metrics.cost.skipped_steps == 1
    warnings = metrics.run["warnings"]
    assert isinstance(warnings, list)
    assert warnings[0].startswith("1 step was left out of training")


def test_a_run_that_skips_stops_after_too_many_in_a_row(spoilt: Any, tmp_path: Path) -> None:
    spoilt(1, 3, 4, 5)
    flags = ["callbacks.bad_steps.action=skip", "callbacks.bad_steps.most_in_a_row=3"]
    with pytest.raises(TrainingError, match=r"step 5 \(epoch 1\)\n.* nan, the last of 3 in a row; its rows are in "):
        run(tmp_path / "run", *data(tmp_path), *ONE, *flags)


def test_accumulated_batches_are_one_step(spoilt: Any, tmp_path: Path) -> None:
    found = spoilt(2)
    flags = ["trainer.accumulate_grad_batches=2", "callbacks.bad_steps.action=skip"]
    run(tmp_path / "run", *data(tmp_path), *ONE, *flags)
    assert found.changed() == [False, False, False, True, True]
    content = json.loads((tmp_path / "run" / "bad_steps" / "step_1.json").read_text(encoding="utf-8"))
    assert [losses["classification"] == "nan" for losses in content["losses"]] == [False, True]
    assert len(content["rows"]) == sum(map(len, found.batches[:2]))


def test_many_bad_steps_leave_few_files(spoilt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtl.training.bad_steps.MOST_FILES", 2)
    spoilt(1, 2, 4, 5)
    run(tmp_path / "run", *data(tmp_path), *ONE, "callbacks.bad_steps.action=skip")
    assert len(list((tmp_path / "run" / "bad_steps").iterdir())) == 2


def test_the_command_line_ends_with_2_and_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    probed(monkeypatch, Spoilt(2).probe)
    small = ["backbone=tiny", "trainer=cpu", "trainer.precision=32-true", "logger=none", "evaluation.figures=false"]
    outcome = command("mtl.train", *small, *data(tmp_path), "data.batch_size=8")
    assert outcome.code == 2
    assert outcome.err.startswith(
        "Training: 1 problem\n  step 2 (epoch 1)\n      found:    a loss that is not finite: "
    )
    assert "Traceback" not in outcome.err


def broken_after(step: int, *, only: str = "") -> Probe:
    """Return a probe that stands for an update which makes weights infinite, with the end of a step."""

    def after(module: MultiTaskModule, batch: Any) -> None:
        if module.global_step == step:
            for name, value in module.network.named_parameters():
                if only in name:
                    value.data.fill_(float("inf"))

    return Probe(after_batch=after)


LOWER = "lower rates: learning_rates=… with smaller values, or more optimizer.warmup"


@pytest.mark.parametrize("action", ["stop", "skip"])
@pytest.mark.parametrize("flags", [["loss=dwa"], ["callbacks=average"], ["freeze=backbone"]])
def test_weights_that_an_update_broke_are_not_saved(
    flags: list[str], action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed(monkeypatch, broken_after(STEPS, only="heads."))
    chosen = [f"callbacks.bad_steps.action={action}", "callbacks.save_every_steps=1", "optimizer.eps=1e-12"]
    with pytest.raises(TrainingError) as error:
        run(tmp_path / "run", *data(tmp_path), *flags, *chosen)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    (problem,) = error.value.problems
    assert problem.place == f"step {STEPS}"
    assert problem.found.startswith("a finite gradient, but an update that left weights which are not: heads.")
    assert (problem.expected, problem.repair) == (
        "finite weights; these are not saved",
        f"one of these:\n      - {LOWER}\n      - optimizer.eps=1e-08 in place of 1e-12\n"
        f"      - the last good state is in {last}",
    )
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["global_step"] == STEPS - 1
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def test_weights_that_broke_before_a_bad_step_are_what_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is saved between the two, and to skip steps from then on would leave out all of them."""
    probed(monkeypatch, broken_after(3))
    flags = ["callbacks.save_every_steps=2", "callbacks.bad_steps.action=skip"]
    with pytest.raises(TrainingError, match=r"step 3\n.* left weights which are not: encoder\.\S+, \S+, \S+ \(\+\d"):
        run(tmp_path / "run", *data(tmp_path), *ONE, *flags)
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2


def test_weights_that_broke_in_shards_are_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process alone has them; all give this error, so none of them waits for another."""
    probed(monkeypatch, broken_after(2, only="layer.1"))
    jobs = {tmp_path / "run": [*data(tmp_path), *ONE, "trainer.strategy=fsdp", "callbacks.gradients=null"]}
    with pytest.raises(TrainingError, match=r"steps? .*\n.* left weights which are not: encoder\.\S+\.1\."):
        train_in_several(2, jobs, tmp_path / "jobs.json")


def test_a_head_that_broke_in_a_step_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of other tasks go well behind it: all since the last checkpoint may have done it."""
    probed(monkeypatch, broken_after(2, only="heads.sentiment"))
    flags = ["data.interleave=round_robin", "callbacks.save_every_steps=3"]
    with pytest.raises(TrainingError, match=r"step 3\n|one of the steps 1 to \d\n"):
        run(tmp_path / "run", *data(tmp_path), *ONE, *flags)
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_an_average_that_is_not_finite_is_not_saved_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def after(module: MultiTaskModule, batch: Any) -> None:
        (average,) = [each for each in module.trainer.callbacks if isinstance(each, AveragedWeights)]  # type: ignore[attr-defined]
        if module.global_step == 3:
            next(iter(average._averages.values())).fill_(NAN)

    probed(monkeypatch, Probe(after_batch=after))
    with pytest.raises(TrainingError, match=r"step 3\n.* left weights which are not: average of "):
        run(tmp_path / "run", *data(tmp_path), *ONE, "callbacks=average", "callbacks.save_every_steps=1")


def test_a_resumed_run_looks_from_its_checkpoint_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [*data(tmp_path), *ONE, "callbacks.save_every_steps=2", "callbacks.bad_steps.action=skip"]
    with monkeypatch.context() as patch:
        probed(patch, broken_after(3))
        with pytest.raises(TrainingError):
            run(tmp_path / "run", *flags)
    probed(monkeypatch, broken_after(3))
    with pytest.raises(TrainingError, match=r"step 3\n"):
        train(config(*flags), tmp_path / "run", resume=True)
    monkeypatch.undo()
    train(config(*flags), tmp_path / "run", resume=True)


@pytest.mark.parametrize("flags", [[], ["callbacks=early_stopping"]])
def test_logits_that_are_not_finite_are_never_the_best(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the first of three validations, which has nothing to compete with; the weights are good."""
    probe = Probe(on_start=lambda module: spoil(module) and None)

    def spoil(module: MultiTaskModule) -> Any:
        def hook(head: Any, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
            return logits * float("inf") if module.trainer.validating and module.current_epoch == 0 else logits

        return module.network.head("sentiment").register_forward_hook(hook)

    probed(monkeypatch, probe)
    run(tmp_path / "run", *data(tmp_path), "trainer.max_epochs=3", *flags)
    assert "validation of sentiment: the logits of 8 of 8 rows are not finite" in caplog.messages
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")["global_step"] > STEPS
