"""From a configuration to objects: networks, plans, rates, samplers, devices, trainers."""

from __future__ import annotations

import shlex
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from mtl.base.errors import ConfigError
from mtl.config.trainer import TrainerConfig
from mtl.data.tasks import TaskData, TaskSpec, load_tasks
from mtl.model.saved import load_model, save_model
from mtl.training import build, hardware
from mtl.training import trainer as trainers
from mtl.training.checkpoints import CurveLog
from mtl.training.combination import Combination
from mtl.training.freezing import FreezePlan
from mtl.training.ranks import ALONE
from tests.support.runs import config, data, write_csv

if TYPE_CHECKING:
    from pathlib import Path

    from mtl.config.fields import Config


def tasks_of(folder: Path, *names: str) -> dict[str, TaskData]:
    data(folder, names)
    specs = [
        TaskSpec(
            name,
            train=folder / f"{name}_train.csv",
            val=folder / f"{name}_val.csv",
            test=folder / f"{name}_test.csv",
        )
        for name in names
    ]
    return load_tasks(specs, seed=0)


def chosen(folder: Path, *overrides: str) -> Config:
    return config(*data(folder), *overrides)


def test_fresh_heads_on_the_pretrained_encoder(tmp_path: Path, tiny_folder: Path) -> None:
    settings = chosen(tmp_path, "heads=mlp", "heads.default.hidden=5", "backbone.max_length=16")
    start = build.make_start(settings, tasks_of(tmp_path, "classification", "sentiment"), tiny_folder)
    assert start.network.encoder.max_length == 16
    assert {name: task.labels for name, task in start.heads.items()} == {
        "classification": ["delivery", "price", "screen"],
        "sentiment": ["bad", "good"],
    }
    assert start.network.head("classification").get_parameter("out.weight").shape == (3, 5)
    assert start.saved_heads == frozenset()


@pytest.fixture
def saved(tmp_path: Path, tiny_folder: Path) -> Path:
    """A saved model of the task sentiment."""
    start = build.make_start(chosen(tmp_path), tasks_of(tmp_path, "sentiment"), tiny_folder)
    save_model(tmp_path / "run" / "model", start.network, start.tokenizer, start.heads, "")
    return tmp_path / "run" / "model"


def test_a_saved_model_gives_its_encoder_and_the_heads_that_it_has(saved: Path, tmp_path: Path) -> None:
    settings = chosen(tmp_path, f"model.init_from={saved}", "heads=mlp")
    start = build.make_start(settings, tasks_of(tmp_path, "classification", "sentiment"), saved)
    assert start.saved_heads == {"sentiment"}
    assert {name: task.head.kind for name, task in start.heads.items()} == {
        "classification": "mlp",
        "sentiment": "linear",
    }
    before = load_model(saved).network.state_dict()
    after = start.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_calibration_is_fitted_again(saved: Path, tmp_path: Path) -> None:
    start = build.make_start(chosen(tmp_path), tasks_of(tmp_path, "sentiment"), saved)
    calibrated = {name: replace(head, temperature=2.0, bias=[1.0, 0.0], tau=0.5) for name, head in start.heads.items()}
    save_model(saved, start.network, start.tokenizer, calibrated, "")
    assert load_model(saved).tasks == calibrated
    again = build.make_start(chosen(tmp_path, f"model.init_from={saved}"), tasks_of(tmp_path, "sentiment"), saved)
    assert again.heads == start.heads


def test_a_saved_model_with_other_labels(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    tasks = tasks_of(tmp_path / "other", "stars")
    renamed = {"sentiment": replace(tasks["stars"], name="sentiment")}
    with pytest.raises(ConfigError) as caught:
        build.make_start(chosen(tmp_path, f"model.init_from={saved}"), renamed, saved)
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  data.tasks.sentiment.labels\n"
        "      found:    1, 2, 3, 4, 5 in the data\n"
        f"      expected: bad, good, in this order, as in {saved}\n"
        "      repair:   write the labels in the files as the model has them, or rename the task in the configuration, "
        "for example to sentiment_new: it gets a new head, and the saved head of sentiment is kept beside it"
    )


def test_labels_in_another_order_come_with_the_argument_that_mends_it(tmp_path: Path, tiny_folder: Path) -> None:
    odd = ("a b", "1", 'say "x", y', "ok")
    rows = [(f"text {number}", label) for number, label in enumerate(odd * 3)]
    spec = TaskSpec("sentiment", path=write_csv(tmp_path / "odd.csv", rows), labels=odd)
    start = build.make_start(chosen(tmp_path), load_tasks([spec], seed=0), tiny_folder)
    save_model(tmp_path / "model", start.network, start.tokenizer, start.heads, "")
    settings = chosen(tmp_path, f"model.init_from={tmp_path / 'model'}")
    with pytest.raises(ConfigError) as caught:
        build.make_start(settings, load_tasks([replace(spec, labels=None)], seed=0), tmp_path / "model")
    (problem,) = caught.value.problems
    (argument,) = shlex.split(problem.repair)
    assert config("data=files", f"data.tasks.sentiment.path={spec.path}", argument).data.tasks["sentiment"].labels == [
        *odd
    ]


def test_heads_of_tasks_without_data_are_kept_and_frozen(saved: Path, tmp_path: Path) -> None:
    settings = chosen(tmp_path, f"model.init_from={saved}")
    start = build.make_start(settings, tasks_of(tmp_path, "classification"), saved)
    assert list(start.heads) == ["classification", "sentiment"]
    assert start.saved_heads == {"sentiment"}
    assert start.kept == {"sentiment"}
    before = load_model(saved).network.head("sentiment").state_dict()
    after = start.network.head("sentiment").state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    plan = build.make_freeze_plan(settings, start)
    assert [layer for layer in plan.first if layer.startswith("heads.")] == ["heads.classification"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["learning_rates=layerwise"], {"embeddings": 1e-5, "layer.0": 1e-5, "layer.1": 5e-5, "layer.2": 5e-5}),
        (["learning_rates=uniform"], dict.fromkeys(["embeddings", "layer.0", "layer.1", "layer.2"], 2e-5)),
        (
            ["learning_rates=decay", "learning_rates.top=1e-4", "learning_rates.factor=0.5"],
            {"embeddings": 1.25e-5, "layer.0": 2.5e-5, "layer.1": 5e-5, "layer.2": 1e-4},
        ),
    ],
)
def test_rates(overrides: list[str], expected: dict[str, float], tmp_path: Path, tiny_folder: Path) -> None:
    settings = chosen(tmp_path, *overrides)
    start = build.make_start(settings, tasks_of(tmp_path, "sentiment"), tiny_folder)
    found = {name: rate.rate for name, rate in build.make_rates(settings, start.network).items()}
    assert found == pytest.approx({**expected, "lora": 5e-4, "heads": 1e-4})


def test_the_plan_and_the_groups(tmp_path: Path, tiny_folder: Path) -> None:
    settings = chosen(tmp_path, "freeze=gradual", "freeze.heads=[sentiment]", "optimizer.weight_decay=0.5")
    start = build.make_start(settings, tasks_of(tmp_path, "classification", "sentiment"), tiny_folder)
    plan = build.make_freeze_plan(settings, start)
    assert plan.first == {
        "embeddings": 2,
        "layer.0": 2,
        "layer.1": 1,
        "layer.2": 1,
        "heads.classification": 0,
    }
    groups = build.make_groups(settings, start.network, plan, Combination(()))
    assert {group.weight_decay for group in groups} == {0.0, 0.5}
    assert groups[0].layers == ("heads.classification",)


def planned(settings: Config, folder: Path) -> Any:
    """Return what a trainer needs of a plan."""
    cpu, freezing = torch.device("cpu"), FreezePlan({"layer.2": 0})
    return SimpleNamespace(
        config=settings, folder=folder, precision="32-true", process=ALONE, device=cpu, freezing=freezing
    )


def test_where_nothing_is_padded_only_the_number_of_rows_counts(tmp_path: Path) -> None:
    plan = planned(chosen(tmp_path, "data.eval_batch_size=3", "data.max_tokens=50"), tmp_path)
    padded = trainers._eval_batch(plan)
    plan.freezing = FreezePlan({"heads.sentiment": 0})
    plain = trainers._eval_batch(plan)
    assert (padded.batch_size, padded.max_tokens) == (3, 100)
    assert plain.max_tokens is None
    assert plain.batch_size >= 2**16


@pytest.mark.parametrize(
    ("accelerator", "cuda", "mps", "expected"),
    [
        ("auto", True, False, "cuda"),
        ("auto", False, True, "mps"),
        ("auto", False, False, "cpu"),
        ("cpu", True, True, "cpu"),
        ("gpu", True, False, "cuda"),
        ("gpu", False, True, "mps"),
        ("cuda", True, True, "cuda"),
        ("mps", True, True, "mps"),
    ],
)
def test_the_device(accelerator: Any, cuda: bool, mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert hardware.choose_device(TrainerConfig(accelerator=accelerator)).type == expected


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError) as caught:
        hardware.choose_device(TrainerConfig(accelerator="cuda"))
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  trainer.accelerator\n"
        f"      found:    cuda, and PyTorch {torch.__version__} finds none\n"
        "      expected: an available device\n"
        "      repair:   trainer=cpu, or install a CUDA build of PyTorch"
    )


@pytest.mark.parametrize(
    ("wanted", "native", "expected"),
    [("auto", True, "bf16-mixed"), ("auto", False, "32-true"), ("32-true", True, "32-true"), (32, True, "32")],
)
def test_the_precision(wanted: Any, native: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "native_bf16", lambda _: native)
    assert hardware.choose_precision(TrainerConfig(precision=wanted), torch.device("cpu")) == expected


def test_fp16_on_a_cpu() -> None:
    with pytest.raises(ConfigError) as caught:
        hardware.choose_precision(TrainerConfig(precision="16-mixed"), torch.device("cpu"))
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  trainer.precision\n"
        "      found:    16-mixed on a CPU, which does not compute in fp16\n"
        "      expected: auto, 32-true or bf16-mixed"
    )
    assert hardware.choose_precision(TrainerConfig(precision="16-mixed"), torch.device("cuda")) == "16-mixed"


def trainer(settings: Config, folder: Path, **rest: Any) -> Any:
    return trainers.make_trainer(
        planned(settings, folder), [], **{"validated": True, "steps_per_epoch": 50, "point": None, **rest}
    )


def test_the_trainer_has_the_flags_that_are_given(tmp_path: Path) -> None:
    settings = chosen(tmp_path, "trainer.accumulate_grad_batches=3", "trainer.gradient_clip_val=0.5")
    made = trainer(settings, tmp_path)
    assert (made.accumulate_grad_batches, made.gradient_clip_val) == (3, 0.5)
    assert made.num_sanity_val_steps == 0
    assert made.default_root_dir == str(tmp_path)


@pytest.mark.parametrize(("steps", "expected"), [(4, 4), (100, 10)])
def test_figures_are_logged_in_each_epoch(steps: int, expected: int, tmp_path: Path) -> None:
    assert trainer(chosen(tmp_path), tmp_path, steps_per_epoch=steps).log_every_n_steps == expected


def test_flags_that_lightning_refuses(tmp_path: Path) -> None:
    settings = chosen(tmp_path, "trainer=cpu", "trainer.devices=[0]")
    with pytest.raises(ConfigError) as caught:
        trainer(settings, tmp_path)
    assert str(caught.value) == (
        "Configuration: 1 problem\n  trainer\n"
        "      found:    `devices` selected with `CPUAccelerator` should be an int > 0.\n"
        "      expected: flags that Lightning's Trainer accepts here"
    )


@pytest.mark.parametrize(
    ("overrides", "validated", "names", "stops"),
    [
        ([], True, {"best"}, False),
        ([], False, set(), False),  # nor Lightning's own
        (["callbacks.keep_best=false"], True, set(), False),
        (["callbacks=early_stopping"], True, {"best"}, True),
        (["callbacks=early_stopping"], False, set(), False),
    ],
)
def test_the_best_checkpoint_and_early_stopping(
    overrides: list[str], validated: bool, names: set[str], stops: bool, tmp_path: Path
) -> None:
    made = trainer(chosen(tmp_path, *overrides), tmp_path, validated=validated)
    kept = [each for each in made.callbacks if isinstance(each, ModelCheckpoint)]
    assert {each.filename for each in kept} == names
    assert {each.monitor for each in kept if each.filename == "best"} <= {"val/macro_f1"}
    assert any(isinstance(each, EarlyStopping) for each in made.callbacks) is stops


@pytest.mark.parametrize(
    ("logger", "kinds"),
    [
        ("none", []),
        ("csv", [CurveLog]),
        ("tensorboard", [TensorBoardLogger]),
        ("both", [CurveLog, TensorBoardLogger]),
    ],
)
def test_loggers(logger: str, kinds: list[type], tmp_path: Path) -> None:
    found = trainers.make_loggers(planned(chosen(tmp_path, f"logger={logger}"), tmp_path), None)
    assert [type(each) for each in found] == kinds


def test_a_logger_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("tensorboard")

    monkeypatch.setattr(trainers, "TensorBoardLogger", missing)
    with pytest.raises(ConfigError) as caught:
        trainers.make_loggers(planned(chosen(tmp_path, "logger=tensorboard"), tmp_path), None)
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  logger\n"
        "      found:    tensorboard, which is not installed\n"
        "      expected: csv\n"
        "      repair:   pip install tensorboard"
    )
