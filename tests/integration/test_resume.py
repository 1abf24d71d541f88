"""A run that is broken off and resumed is, bit for bit, the run that was not."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import pytest
import torch
import yaml

import mtl.train as command
from mtl.base.errors import ConfigError, DiskError, ModelError, Problem, Terminated, TrainingError
from mtl.training import checkpoints, resume_points
from mtl.training.reevaluate import read_config
from mtl.training.run import train
from mtl.training.stopping import SIGNALS
from tests.support.resuming import COMMON, SCENARIOS, differences
from tests.support.runs import Probe, config, data, probed

if TYPE_CHECKING:
    from collections.abc import Callable

    from mtl.config.fields import Config
    from mtl.data.batch import Batch
    from mtl.training.module import MultiTaskModule


class Killed(BaseException):
    """Stands for the end of the process."""


def dies(when: Callable[[MultiTaskModule], bool]) -> Probe:
    """Return a probe that kills at the end of a step."""

    def look(module: MultiTaskModule, _: Batch) -> None:
        if when(module):
            raise Killed

    return Probe(after_batch=look)


def overrides(folder: Path, scenario: str) -> list[str]:
    """Return the overrides of a scenario, with tasks of different size, three and two classes."""
    sizes = {"classification": 12, "sentiment": 5}
    files = [each for task, rows in sizes.items() for each in data(folder, [task], train=rows)]
    return [*dict.fromkeys(files), *COMMON, *SCENARIOS[scenario]]


def broken_off(folder: Path, chosen: list[str], step: int, *, resume: bool = False) -> None:
    """Train until the end of an optimizer step."""
    with pytest.MonkeyPatch.context() as patch:
        probed(patch, dies(lambda module: module.global_step >= step))
        with contextlib.suppress(Killed):
            train(config(*chosen), folder, resume=resume)


def check_broken_off(folder: Path, scenario: str, steps: list[tuple[int, int]]) -> None:
    """Compare runs that were broken off at two steps with the unbroken one."""
    chosen = overrides(folder / "data", scenario)
    train(config(*chosen), folder / "unbroken")
    for first, second in steps:
        run = folder / f"{first}-{second}"
        broken_off(run, chosen, first)
        broken_off(run, chosen, second, resume=True)
        if not (run / "metrics.json").exists():
            train(config(*chosen), run, resume=True)
        assert differences(run, folder / "unbroken") == []


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_broken_off_in_every_scenario(scenario: str, tmp_path: Path) -> None:
    check_broken_off(tmp_path, scenario, [(1, 4), (5, 9), (7, 12)])


def test_broken_off_in_the_middle_of_an_epoch_and_behind_a_validation(tmp_path: Path) -> None:
    check_broken_off(tmp_path, "gradual", [(5, 10)])


def test_broken_off_in_the_validation_behind_the_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which no interval asks for; the best state, here of that validation, is that of the unbroken run."""
    chosen = [*overrides(tmp_path / "data", "last_validation"), "callbacks.save_every_steps=null"]
    last = train_steps(config(*chosen), tmp_path / "unbroken", monkeypatch)

    def die(_: Any, module: MultiTaskModule, *rest: Any) -> None:
        if module.global_step == last:
            raise Killed

    with monkeypatch.context() as patch:
        probe = probed(patch, Probe())
        probe.on_validation_batch_end = die  # type: ignore[assignment]
        with contextlib.suppress(Killed):
            train(config(*chosen), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()
    train(config(*chosen), tmp_path / "run", resume=True)
    assert differences(tmp_path / "run", tmp_path / "unbroken") == []


def train_steps(chosen: Config, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Train and return the number of optimizer steps."""
    with monkeypatch.context() as patch:
        probe = probed(patch, Probe())
        train(chosen, folder)
    return probe.optimizer_steps


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a run broken off with two resume points, and its overrides. Do not write into it."""
    folder = tmp_path_factory.mktemp("half")
    chosen = overrides(folder / "data", "none")
    broken_off(folder / "run", chosen, 8)
    return folder / "run", chosen


@pytest.fixture
def copy(half: tuple[Path, list[str]], tmp_path: Path) -> tuple[Path, list[str]]:
    """A copy of it to change."""
    return Path(shutil.copytree(half[0], tmp_path / "run")), half[1]


def test_without_its_random_state_a_resumed_run_is_another(
    copy: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests the tests: dropout is on, and what they compare depends on all of the state."""
    run, chosen = copy
    monkeypatch.setattr(resume_points, "restore_random_state", lambda _: None)
    train(config(*chosen), run, resume=True)
    monkeypatch.undo()
    train(config(*chosen), tmp_path / "unbroken")
    assert "model/model.safetensors" in differences(run, tmp_path / "unbroken")


@pytest.mark.parametrize(
    ("number", "during_validation"),
    [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGUSR1, False), (signal.SIGUSR2, True)],
)
def test_a_signal_to_end_saves_first(
    number: signal.Signals, during_validation: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [*overrides(tmp_path / "data", "gradual"), "callbacks.save_every_steps=null"]
    run = tmp_path / "run"

    def terminate(module: MultiTaskModule, _: Batch) -> None:
        if module.global_step == 7 and not sent:
            sent.append(True)
            os.kill(os.getpid(), number)

    sent: list[bool] = []
    with monkeypatch.context() as patch:
        probe = probed(patch, Probe(before_batch=None if during_validation else terminate))
        if during_validation:  # of the averages, which are in the place of the weights then
            probe.on_validation_batch_start = lambda _, module, batch, *rest: terminate(module, batch)  # type: ignore[method-assign]
        with pytest.raises(Terminated) as caught:
            train(config(*chosen), run)
    assert str(caught.value) == f"ended by {number.name}; to resume: python -m mtl.train resume={run}"
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 7 + (
        not during_validation
    )
    train(config(*chosen), run, resume=True)
    train(config(*chosen), tmp_path / "unbroken")
    assert differences(run, tmp_path / "unbroken") == []
    assert {signal.getsignal(each) for each in SIGNALS} == {signal.SIG_DFL}


def test_a_job_of_slurm_is_not_put_back_into_its_queue_by_lightning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the variables that sbatch sets, and a scontrol that would be called: there is no SLURM here."""
    called, scontrol = tmp_path / "called", tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f"#!/bin/sh\ntouch {called}\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}{os.pathsep}{os.environ['PATH']}")
    for name, value in {"NTASKS": "1", "JOB_ID": "7", "JOB_NAME": "train", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)

    def end(module: MultiTaskModule, _: Batch) -> None:
        if module.global_step == 3:
            os.kill(os.getpid(), signal.SIGUSR1)

    chosen, run = overrides(tmp_path / "data", "none"), tmp_path / "run"
    with monkeypatch.context() as patch:
        probed(patch, Probe(before_batch=end))
        with pytest.raises(Terminated, match=r"ended by SIGUSR1; to resume"):
            train(config(*chosen), run)
    assert not called.exists()
    assert not list(run.rglob("hpc*"))
    train(config(*chosen), run, resume=True)
    monkeypatch.undo()
    train(config(*chosen), tmp_path / "unbroken")
    assert differences(run, tmp_path / "unbroken") == []


@pytest.mark.parametrize("requeued", [True, False])
def test_the_handler_of_a_launcher_is_called_once_the_checkpoint_is_written(
    requeued: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = tmp_path / "run", list[str]()

    def requeue(number: int, frame: object) -> None:
        seen.append(*(path.name for path in run.rglob("last.ckpt")))
        if not requeued:
            raise RuntimeError("Job not requeued because: timed-out too many times.")
        sys.exit(144)

    def end(module: MultiTaskModule, _: Batch) -> None:
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, requeue)
    try:
        probed(monkeypatch, Probe(before_batch=end))
        with pytest.raises(SystemExit if requeued else TrainingError) as caught:
            train(config(*overrides(tmp_path / "data", "none")), run)
        assert signal.getsignal(signal.SIGUSR2) is requeue
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert seen == ["last.ckpt"]
    if isinstance(caught.value, TrainingError):
        found = "the job was ended by SIGUSR2, and Job not requeued because: timed-out too many times."
        advice = f"to resume: python -m mtl.train resume={run}"
        assert caught.value.problems == (Problem("launcher", found, "enough time for the job", advice),)


def flip(path: Path, at: int = -500) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    copy: tuple[Path, list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, chosen = copy
    flip(run / "checkpoints" / "last.ckpt")
    train(config(*chosen), run, resume=True)
    assert (
        f"{run}/checkpoints/last.ckpt: a changed, damaged or cut off file: its checksum differs; "
        "resuming from the checkpoint before it, previous.ckpt"
    ) in caplog.messages
    train(config(*chosen), tmp_path / "unbroken")
    assert differences(run, tmp_path / "unbroken") == []


def test_damaged_checkpoints_alone(copy: tuple[Path, list[str]]) -> None:
    run, chosen = copy
    for name in ("last.ckpt", "previous.ckpt"):
        flip(run / "checkpoints" / name)
    with pytest.raises(ModelError) as caught:
        train(config(*chosen), run, resume=True)
    assert str(caught.value) == "Model: 2 problems\n" + "\n".join(
        f"  {run}/checkpoints/{name}\n"
        "      found:    a changed, damaged or cut off file: its checksum differs\n"
        "      expected: a checkpoint as mtl.train wrote it\n"
        "      repair:   start the run again"
        for name in ("last.ckpt", "previous.ckpt")
    )


def changed(path: Path, *changes: Callable[[dict[str, Any]], object]) -> None:
    """Change what a checkpoint holds, and seal it again."""
    state = torch.load(path, weights_only=True)
    for change in changes:
        change(state)
    checkpoints.write_checkpoint(path, state)


def put(value: Any, *keys: Any) -> Callable[[dict[str, Any]], object]:
    def change(state: Any) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return change


def without(*keys: Any) -> Callable[[dict[str, Any]], object]:
    def change(state: Any) -> None:
        for key in keys[:-1]:
            state = state[key]
        del state[keys[-1]]

    return change


BROKEN = {
    "mtl": put([], "mtl"),
    "mtl.inputs": without("mtl", "inputs"),
    "mtl.inputs.config": put(1, "mtl", "inputs", "config"),
    "mtl.inputs.files.a": put(3, "mtl", "inputs", "files", "a"),
    "mtl.inputs.versions": put({"torch": "2\n\x1b[2J"}, "mtl", "inputs", "versions"),
    "mtl.random": put([], "mtl", "random"),
    "mtl.random.0": put(torch.zeros(3), "mtl", "random", 0, "torch"),
    "mtl.random.0.numpy": without("mtl", "random", 0, "numpy"),
    "mtl.log_rows": put(-1, "mtl", "log_rows"),
    "mtl.should_stop": put("no", "mtl", "should_stop"),
    "epoch": without("epoch"),
    "global_step": put("7", "global_step"),
    "pytorch-lightning_version": put("1.9.0", "pytorch-lightning_version"),
    "state_dict": put([], "state_dict"),
    "loops": put({}, "loops"),
    "callbacks": put(None, "callbacks"),
    "callbacks.Cost": put(1, "callbacks", "Cost"),
    "optimizer_states": put([], "optimizer_states"),
    "optimizer_states.0.state": put(None, "optimizer_states", 0, "state"),
    "lr_schedulers": without("lr_schedulers"),
}


@pytest.mark.parametrize("key", BROKEN)
def test_a_sealed_checkpoint_of_another_form_is_refused_by_its_key(key: str, copy: tuple[Path, list[str]]) -> None:
    last = copy[0] / "checkpoints" / "last.ckpt"
    (last.parent / "previous.ckpt").unlink()
    changed(last, BROKEN[key])
    with pytest.raises(ModelError) as caught:
        resume_points.last_point(last.parent)
    assert any(each.place.startswith(f"{last}: {key}") for each in caught.value.problems)
    assert all(each.repair.startswith("start the run again") for each in caught.value.problems)
    assert "\x1b" not in str(caught.value)


def test_a_checkpoint_of_another_version_says_so(copy: tuple[Path, list[str]]) -> None:
    last = copy[0] / "checkpoints" / "last.ckpt"
    (last.parent / "previous.ckpt").unlink()
    changed(last, put("2.4.0", "pytorch-lightning_version"), put("2.4.0", "mtl", "inputs", "versions", "lightning"))
    with pytest.raises(ModelError) as caught:
        resume_points.last_point(last.parent)
    release = ".".join(lightning.__version__.split(".")[:2])
    assert str(caught.value) == (
        f"Model: 1 problem\n  {last}: pytorch-lightning_version\n      found:    '2.4.0'\n"
        f"      expected: a version {release} of Lightning\n"
        "      repair:   start the run again, or resume it with what has written it: lightning 2.4.0"
    )


def test_a_checkpoint_of_another_network_or_run_is_refused_before_it_is_loaded(copy: tuple[Path, list[str]]) -> None:
    run, chosen = copy
    last = run / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    (bias, *_) = [name for name in state["state_dict"] if name.endswith("bias") and "sentiment_" in name]
    fit_loop = ("loops", "fit_loop")
    changed(
        last,
        put(torch.zeros(7), "state_dict", bias),
        put(torch.zeros(7), "state_dict", "more"),
        without("state_dict", next(name for name in state["state_dict"] if name.endswith("weight"))),
        put(None, *fit_loop, "epoch_progress"),
        without(*fit_loop, "epoch_loop.batch_progress", "total", "ready"),
        without(*fit_loop, "state_dict", "combined_loader", 0, "tasks", "sentiment", "rows"),
        put(torch.zeros(9), "optimizer_states", 0, "state", 0, "exp_avg"),
        put({}, "optimizer_states", 0, "state", 10_000),
        put([], "optimizer_states", 0, "param_groups", 0, "params"),
        without("lr_schedulers", 0, "lr_lambdas"),
        without("callbacks", "Cost"),
        put("long", "callbacks", "EpochLines", "seconds"),
        put([{"when": 1}], "callbacks", "History", "epochs"),
        put({}, "bad_steps"),
    )
    with pytest.raises(ModelError) as caught:
        train(config(*chosen), run, resume=True)
    places = [each.place.removeprefix(f"{last}: ") for each in caught.value.problems]
    assert all(each.place.startswith(f"{last}: ") for each in caught.value.problems)
    for place in (
        f"state_dict.{bias}",
        "state_dict.more",
        "loops.fit_loop.epoch_progress",
        "loops.fit_loop.epoch_loop.batch_progress.total.ready",
        "loops.fit_loop.state_dict.combined_loader.0.tasks.sentiment.rows",
        "optimizer_states.0.state.0.exp_avg",
        "optimizer_states.0.state.10000",
        "optimizer_states.0.param_groups.0.params",
        "lr_schedulers.0.lr_lambdas",
        "callbacks.Cost",
        "callbacks.EpochLines.seconds",
        "callbacks.History",
        "bad_steps.in_a_row",
    ):
        assert place in places
    assert len([place for place in places if place.startswith("state_dict.")]) == 3


def test_a_changed_data_file_is_refused(half: tuple[Path, list[str]], copy: tuple[Path, list[str]]) -> None:
    run, chosen = copy
    (path,) = [each.partition("=")[2] for each in chosen if each.startswith("data.tasks.sentiment.train=")]
    before = Path(path).read_bytes()
    Path(path).write_bytes(before + b"one more row,good\n")
    try:
        with pytest.raises(ConfigError) as caught:
            train(config(*chosen), run, resume=True)
    finally:
        Path(path).write_bytes(before)
    assert str(caught.value) == (
        f"Configuration: 1 problem\n  data.tasks.sentiment.train={path}\n"
        "      found:    another content than when the run began\n"
        "      expected: the same file\n"
        "      repair:   put back what the run began with, or start a new run"
    )


def test_a_changed_configuration_is_refused(copy: tuple[Path, list[str]]) -> None:
    run, chosen = copy
    with pytest.raises(ConfigError) as caught:
        train(config(*chosen, "optimizer.warmup=0", "trainer.max_epochs=3"), run, resume=True)
    repair = "put it back, or start a new run with it"
    assert str(caught.value) == (
        f"Configuration: 2 problems\n  {run}/config.yaml: optimizer.warmup\n"
        f"      found:    0\n      expected: 2, as when the run began\n      repair:   {repair}\n"
        f"  {run}/config.yaml: trainer.max_epochs\n"
        f"      found:    3\n      expected: 4, as when the run began\n      repair:   {repair}"
    )


def test_changed_weights_are_refused(copy: tuple[Path, list[str]], tiny_folder: Path, tmp_path: Path) -> None:
    run, chosen = copy
    point = resume_points.last_point(run / "checkpoints")
    assert point is not None
    state = torch.load(point.path, weights_only=True)
    state["mtl"]["inputs"]["weights"] = "0" * 64
    checkpoints.write_checkpoint(point.path, state)
    with pytest.raises(ConfigError) as caught:
        train(config(*chosen), run, resume=True)
    assert str(caught.value) == (
        "Configuration: 1 problem\n  backbone or model.init_from\n"
        "      found:    other weights, before the first step, than when the run began\n"
        "      expected: the same weights\n"
        "      repair:   put back what the run began with, or start a new run"
    )


def test_activations_that_were_computed_again_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chosen = overrides(tmp_path / "data", "backbone")
    broken_off(tmp_path / "run", chosen, 8)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert list(torch.load(last, weights_only=True)["mtl"]["activations"]) == ["embedding"]
    broken_off(tmp_path / "run", chosen, 9, resume=True)
    assert "were computed again" not in caplog.text
    changed(last, put("of other batches", "mtl", "activations", "embedding"))
    train(config(*chosen), tmp_path / "run", resume=True)
    assert (
        "the cached activations (embedding) were computed again since the run was ended, in other batches: the result "
        "may differ in the last digits from that of an unbroken run"
    ) in caplog.messages


def test_a_finished_run_is_trained_for_more_epochs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With rates that do not depend on the number of epochs, what comes out is a run of as many epochs."""
    run = tmp_path / "run"
    chosen = [*overrides(tmp_path / "data", "none"), "optimizer.schedule=constant", "optimizer.warmup=0"]
    train(config(*chosen, "trainer.max_epochs=2"), run)
    for text, told in (("2", "more than 2, the run's own"), ("two", "more than 2"), ("9" * 99, "more than 2")):
        with pytest.raises(ConfigError, match=told):
            command._with_more_epochs(read_config(run), text, run)
    longer = command._with_more_epochs(read_config(run), "4", run)
    with caplog.at_level(logging.INFO):
        train(longer, run, resume=True)
    assert "training for 4 epochs instead of 2: learning rates follow the longer schedule from here on" in caplog.text
    assert f"resuming {run} after step 10, from last.ckpt" in caplog.messages
    train(config(*chosen, "trainer.max_epochs=4"), tmp_path / "unbroken")
    assert differences(run, tmp_path / "unbroken") == []
    assert read_config(run).trainer.max_epochs == 4


def test_another_version_is_said(copy: tuple[Path, list[str]], caplog: pytest.LogCaptureFixture) -> None:
    run, chosen = copy
    point = resume_points.last_point(run / "checkpoints")
    assert point is not None
    state = torch.load(point.path, weights_only=True)
    state["mtl"]["inputs"]["versions"]["torch"] = "1.0"
    checkpoints.write_checkpoint(point.path, state)
    train(config(*chosen), run, resume=True)
    expected = f"the result may differ from that of an unbroken run: torch 1.0 is now {torch.__version__}"
    assert expected in caplog.messages


def test_a_moved_run_folder_goes_on(copy: tuple[Path, list[str]], tmp_path: Path) -> None:
    run, chosen = copy
    train(config(*chosen), run, resume=True)
    train(config(*chosen), tmp_path / "unbroken")
    assert differences(run, tmp_path / "unbroken") == []
    assert not (run / "checkpoints" / "previous.ckpt").exists()


def test_a_full_disk_leaves_the_last_checkpoint(
    copy: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, chosen = copy
    last = (run / "checkpoints" / "last.ckpt").read_bytes()

    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    save = torch.save
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", lambda checkpoint, _: save(checkpoint, Full()))
        with pytest.raises(DiskError) as caught:
            train(config(*chosen), run, resume=True)
    assert str(caught.value) == (
        f"Disk: 1 problem\n  {run}\n      found:    no space left for {run / 'checkpoints' / 'last.ckpt'}\n"
        "      expected: space for the model, and three times that for the checkpoints of a training\n"
        f"      repair:   free some, then: python -m mtl.train resume={run}"
    )
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == last
    assert not [path for path in run.rglob("*") if "partial" in path.name]
    train(config(*chosen), run, resume=True)
    train(config(*chosen), tmp_path / "unbroken")
    assert differences(run, tmp_path / "unbroken") == []


def test_a_run_of_before_its_first_checkpoint_begins_again(tmp_path: Path) -> None:
    chosen = overrides(tmp_path / "data", "none")
    broken_off(tmp_path / "run", chosen, 1)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))["seed"] == 42
    train(config(*chosen), tmp_path / "run", resume=True)
    train(config(*chosen), tmp_path / "unbroken")
    assert differences(tmp_path / "run", tmp_path / "unbroken") == []


def test_the_state_of_all_generators_comes_back() -> None:
    import random

    import numpy as np

    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002, S311

    draw()
    state = checkpoints.random_state()
    expected = draw()
    checkpoints.restore_random_state(state)
    assert draw() == expected
