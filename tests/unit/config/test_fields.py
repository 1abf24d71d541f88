"""Configurations: every check that needs no file, with the whole text of what it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pytest
from omegaconf import OmegaConf

from mtl.base.errors import ConfigError, Problem
from mtl.config.checks import load
from mtl.config.fields import Config, Decay, Layerwise, Uniform
from mtl.config.loss import Combine
from tests.support.configs import changed, composed

MONITORED = (
    "val/accuracy, val/macro_f1, val/weighted_f1, val/classification/accuracy, val/classification/macro_f1, "
    "val/classification/weighted_f1, val/sentiment/accuracy, val/sentiment/macro_f1, val/sentiment/weighted_f1"
)
LAYERS = "a number of layers from 1 on, or a share of all (0.0 < share < 1.0)"
DEVICES = "auto, a number from 1 to 1024, -1 for all, or a list of which ones: [0, 2]"
DURATION = "days:hours:minutes:seconds, such as 00:12:00:00, or keys of days, hours, minutes, seconds: {hours: 12}"
POOLINGS = (
    "auto, cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken, or several of these joined by +: mean+max"
)
FILES = "train= (with or without val= and test=), path= or dataset="
NAME = (
    "at most 60 letters, digits and underscores, not starting with a digit, and none of all, combine, consistency, "
    "default, dwa, famo, tasks, uncertainty, weights"
)
SENTIMENT = "data.tasks.sentiment"


def problems(changes: dict[str, Any], *arguments: str) -> list[Problem]:
    """Return the problems of a composed configuration with other values at some keys."""
    with pytest.raises(ConfigError) as caught:
        load(changed(changes, *arguments))
    return list(caught.value.problems)


def test_the_configuration_of_an_earlier_version_still_loads() -> None:
    """It has none of the keys that came later, each of which has the value that was meant before."""
    values: Any = OmegaConf.to_container(OmegaConf.create(composed("backbone=mpnet")), resolve=True)
    now = load(values)
    for section, key in (("backbone", "prompt_name"), ("backbone", "fast_rates"), ("data", "most_batches")):
        del values[section][key]
    earlier = load(values)
    assert earlier.backbone.fast_rates is None
    assert (earlier.backbone.prompt_name, earlier.data) == (now.backbone.prompt_name, now.data)


def test_the_text_of_an_error_is_whole() -> None:
    with pytest.raises(ConfigError) as caught:
        load(changed({"trainer.max_epoch": 3, "learning_rates.heads": 2, "freeze.heads": ["sentimnt"]}))
    assert str(caught.value) == (
        "Configuration: 3 problems\n"
        "  learning_rates.heads\n"
        "      found:    2\n"
        "      expected: less than or equal to 1\n"
        "  trainer.max_epoch\n"
        "      found:    an unknown key\n"
        "      expected: accelerator, devices, num_nodes, strategy, precision, max_epochs, min_epochs, max_steps, "
        "min_steps, max_time, limit_train_batches, limit_val_batches, fast_dev_run, "
        "val_check_interval, check_val_every_n_epoch, num_sanity_val_steps, accumulate_grad_batches, "
        "gradient_clip_val, gradient_clip_algorithm, log_every_n_steps, deterministic, benchmark, detect_anomaly, "
        "profiler, sync_batchnorm\n"
        "      repair:   did you mean trainer.max_epochs?\n"
        "  freeze.heads\n"
        "      found:    the task 'sentimnt'\n"
        "      expected: classification, sentiment\n"
        "      repair:   did you mean sentiment?"
    )


@pytest.mark.parametrize("pooling", ["auto", "lasttoken", "mean+max"])
def test_poolings(pooling: str) -> None:
    assert load(changed({}, f"backbone.pooling={pooling}")).backbone.pooling == pooling


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"seed": -1}, Problem("seed", "-1", "greater than or equal to 0")),
        ({"seed": 2**32}, Problem("seed", "4294967296", "less than 4294967296")),
        ({"seed": None}, Problem("seed", "null", "a whole number")),
        ({"backbone.normalize": "maybe"}, Problem("backbone.normalize", "'maybe'", "auto, or true or false")),
        ({"backbone.pooling": "mean+median"}, Problem("backbone.pooling", "'mean+median'", POOLINGS)),
        ({"backbone.pooling": ""}, Problem("backbone.pooling", "''", POOLINGS)),
        ({"backbone.max_length": 2}, Problem("backbone.max_length", "2", "greater than or equal to 3")),
        ({"backbone.path": ""}, Problem("backbone.path", "''", "a text that is not empty")),
        ({"model.init_from": ""}, Problem("model.init_from", "''", "a text that is not empty")),
        ({"data.temperature": float("inf")}, Problem("data.temperature", "inf", "a finite number")),
        (
            {"data.interleave": "pared"},
            Problem(
                "data.interleave", "'pared'", "paired, round_robin, proportional, temperature", "did you mean paired?"
            ),
        ),
        ({"data.max_tokens": 8}, Problem("data.max_tokens", "8", "greater than or equal to 16")),
        ({"learning_rates.upper_layers": 0}, Problem("learning_rates.upper_layers", "0", LAYERS)),
        ({"learning_rates.upper_layers": 1.0}, Problem("learning_rates.upper_layers", "1.0", LAYERS)),
        ({"learning_rates.upper_layers": True}, Problem("learning_rates.upper_layers", "true", LAYERS)),
        ({"learning_rates.upper_layers": "half"}, Problem("learning_rates.upper_layers", "'half'", LAYERS)),
        ({"learning_rates.kind": "cosine"}, Problem("learning_rates.kind", "'cosine'", "layerwise, decay, uniform")),
        ({"learning_rates.kind": None}, Problem("learning_rates.kind", "null", "layerwise, decay, uniform")),
        ({"learning_rates": None}, Problem("learning_rates", "null", "keys with values")),
        (
            {"optimizer.warmup": -1},
            Problem("optimizer.warmup", "-1", "a number of steps from 0 on, or a share of all (0.0 <= share < 1.0)"),
        ),
        ({"optimizer.betas": [0.9]}, Problem("optimizer.betas", "[0.9]", "at least 2 values")),
        ({"optimizer.betas": [0.9, 1.0]}, Problem("optimizer.betas.1", "1.0", "less than 1")),
        ({"optimizer.eps": 1e-300}, Problem("optimizer.eps", "1e-300", "greater than or equal to 0.000000000000001")),
        ({"optimizer.weight_decay": float("nan")}, Problem("optimizer.weight_decay", "nan", "a finite number")),
        ({"loss.weights": {"sentiment": 0}}, Problem("loss.weights.sentiment", "0", "greater than 0")),
        ({"loss.combine": "mean"}, Problem("loss.combine", "'mean'", ", ".join(get_args(Combine)))),
        (
            {"logger.kinds": ["csvs"]},
            Problem("logger.kinds.0", "'csvs'", "csv, tensorboard, wandb, mlflow, trackio", "did you mean csv?"),
        ),
        ({"heads.default.dropout": 1.0}, Problem("heads.default.dropout", "1.0", "less than 1")),
        (
            {"trainer.accelerator": "cud"},
            Problem("trainer.accelerator", "'cud'", "auto, cpu, gpu, cuda, mps", "did you mean cuda?"),
        ),
        ({"trainer.precision": 16}, Problem("trainer.precision", "16", "auto, 32-true, bf16-mixed, 16-mixed, 32")),
        ({"trainer.devices": 0}, Problem("trainer.devices", "0", DEVICES)),
        ({"trainer.devices": [0, "a"]}, Problem("trainer.devices", "[0, 'a']", DEVICES)),
        ({"trainer.devices": []}, Problem("trainer.devices", "[]", DEVICES)),
        ({"trainer.devices": "2"}, Problem("trainer.devices", "'2'", DEVICES)),
        ({"trainer.max_time": "12h"}, Problem("trainer.max_time", "'12h'", DURATION)),
        ({"trainer.max_time": {"hour": 1}}, Problem("trainer.max_time", "{'hour': 1}", DURATION)),
        (
            {"trainer.limit_train_batches": 0},
            Problem(
                "trainer.limit_train_batches",
                "0",
                "a number of batches from 1 on, or a share of all (0.0 < share <= 1.0)",
            ),
        ),
        (
            {"trainer.limit_val_batches": -1},
            Problem(
                "trainer.limit_val_batches",
                "-1",
                "a number of batches from 0 on, or a share of all (0.0 <= share <= 1.0)",
            ),
        ),
        (
            {"trainer.fast_dev_run": 0},
            Problem("trainer.fast_dev_run", "0", "true or false, or greater than or equal to 1"),
        ),
        (
            {"callbacks.early_stopping": {"patience": 2}},
            Problem(
                "callbacks.early_stopping.min_delta", "nothing", "a value", "give callbacks.early_stopping.min_delta=…"
            ),
        ),
        (
            {"freeze.heads": "sentiment"},
            Problem("freeze.heads", "'sentiment'", "a list, or all", "give freeze.heads=[sentiment]"),
        ),
        ({"data.tasks": None}, Problem("data.tasks", "null", "keys with values")),
        (
            {SENTIMENT: "a.csv"},
            Problem(SENTIMENT, "'a.csv'", "keys with values", f"give {SENTIMENT}.path=a.csv"),
        ),
        (
            {f"{SENTIMENT}.labels": "bad"},
            Problem(f"{SENTIMENT}.labels", "'bad'", "a list", f"give {SENTIMENT}.labels=[bad]"),
        ),
        ({f"{SENTIMENT}.labels": [None, "a"]}, Problem(f"{SENTIMENT}.labels.0", "null", "a text")),
        ({"calibration.temperature": 1.5}, Problem("calibration.temperature", "1.5", "true or false")),
        (
            {"calibration.prior": "tune"},
            Problem("calibration.prior", "'tune'", "none, tuned", "did you mean tuned?"),
        ),
        ({"calibration.bins": 1}, Problem("calibration.bins", "1", "greater than or equal to 2")),
        ({"calibration.bins": 1000}, Problem("calibration.bins", "1000", "less than or equal to 100")),
        (
            {"calibration.bin": 10},
            Problem("calibration.bin", "an unknown key", "temperature, prior, bins", "did you mean calibration.bins?"),
        ),
        ({"nothing": 1}, Problem("nothing", "an unknown key", ", ".join(composed()))),
    ],
)
def test_a_value_that_is_wrong_by_itself(changes: dict[str, Any], problem: Problem) -> None:
    found = problems(changes)
    if problem.place == "nothing":  # the order of the keys is not the point
        found = [Problem(each.place, each.found, ", ".join(sorted(each.expected.split(", ")))) for each in found]
        problem = Problem(problem.place, problem.found, ", ".join(sorted(problem.expected.split(", "))))
    assert found == [problem]


@pytest.mark.parametrize(
    ("arguments", "changes", "problem"),
    [
        (
            (),
            {"data.tasks": {}},
            Problem(
                "data.tasks",
                "no task",
                "at least one task with its file",
                "give data.tasks.classification.train=a.csv data.tasks.sentiment.path=b.jsonl",
            ),
        ),
        (
            (),
            {"data.split": [0.5, 0.5]},
            Problem("data.split", "[0.5, 0.5]", "three shares (train, val, test) that sum to 1"),
        ),
        (
            (),
            {"data.split": [0.8, 0.1, 0.2]},
            Problem("data.split", "[0.8, 0.1, 0.2]", "three shares (train, val, test) that sum to 1"),
        ),
        ((), {"data.tasks.all": {"path": "a.csv"}}, Problem("data.tasks.all", "the task name 'all'", NAME)),
        *(
            (
                (),
                {f"data.tasks.{name}": {"path": "a.csv"}},
                Problem(f"data.tasks.{name}", f"the task name '{name}'", NAME),
            )
            for name in ("combine", "consistency", "default", "tasks", "weights")
        ),
        (
            (),
            {"data.tasks.my-task": {"path": "a.csv"}},
            Problem("data.tasks.my-task", "the task name 'my-task'", NAME, "call it my_task"),
        ),
        ((), {"data.tasks.0": {"path": "a.csv"}}, Problem("data.tasks.0", "the task name '0'", NAME, "call it task_0")),
        ((), {"data.tasks.new": {}}, Problem("data.tasks.new", "no file", FILES, "give data.tasks.new.path=…")),
        (
            (),
            {"data.tasks.new": {"val": "a.csv"}},
            Problem("data.tasks.new", "no file", FILES, "give data.tasks.new.path=…"),
        ),
        (
            (),
            {f"{SENTIMENT}.path": "a.csv"},
            Problem(
                SENTIMENT,
                "path beside train and val and test",
                "one file to be split, or files for the splits",
                f"give {SENTIMENT}.path=null, or path alone",
            ),
        ),
        (
            (),
            {f"{SENTIMENT}.dataset": "a/b"},
            Problem(
                SENTIMENT,
                "dataset beside train and val and test",
                "a data set, or files",
                f"give {SENTIMENT}.dataset=null, or it alone",
            ),
        ),
        *(
            (
                (),
                {f"{SENTIMENT}.{key}": value},
                Problem(f"{SENTIMENT}.{key}", found, "null without a data set", f"give {SENTIMENT}.dataset=…"),
            )
            for key, value, found in (
                ("config", "a", "'a'"),
                ("revision", "main", "'main'"),
                ("splits", {"val": "dev"}, "{'val': 'dev'}"),
            )
        ),
        (
            (),
            {f"{SENTIMENT}.label_column": "text"},
            Problem(f"{SENTIMENT}.label_column", "'text'", "another column than text_column"),
        ),
        (
            (),
            {f"{SENTIMENT}.slices": ["b", "a", "a"]},
            Problem(f"{SENTIMENT}.slices", "b, a, a", "each column once"),
        ),
        (
            (),
            {f"{SENTIMENT}.slices": ["a", "text"]},
            Problem(f"{SENTIMENT}.slices", "'text', the text_column", "other columns of the files", "take 'text' out"),
        ),
        (
            (),
            {f"{SENTIMENT}.labels": ["bad"]},
            Problem(f"{SENTIMENT}.labels", "['bad']", "at least two labels, each once"),
        ),
        (
            (),
            {f"{SENTIMENT}.labels": [1, "1"]},
            Problem(f"{SENTIMENT}.labels", "['1', '1']", "at least two labels, each once"),
        ),
        (
            (),
            {"heads.tasks.topic": {"kind": "linear", "dropout": 0.1}},
            Problem("heads.tasks.topic", "the task 'topic'", "classification, sentiment"),
        ),
        (
            (),
            {"loss.combine": "weighted", "loss.weights": {"sentimnt": 2}},
            Problem(
                "loss.weights.sentimnt", "the task 'sentimnt'", "classification, sentiment", "did you mean sentiment?"
            ),
        ),
        (
            (),
            {"heads.default.hidden": 8},
            Problem(
                "heads.default.hidden", "8", "null: a linear head has no hidden layer", "give heads.default.kind=mlp"
            ),
        ),
        (
            (),
            {"freeze.backbone": "lower"},
            Problem(
                "freeze.train_layers",
                "null",
                "how many of the top layers train, a number or a share",
                "choose freeze=lower_layers",
            ),
        ),
        (
            (),
            {"freeze.backbone": "gradual"},
            Problem("freeze.gradual", "null", "unit, start, every, layers, stages and warmup", "choose freeze=gradual"),
        ),
        (
            (),
            {"freeze.train_layers": 3},
            Problem(
                "freeze.train_layers",
                "3 beside freeze.backbone=none, where it means nothing",
                "null, or freeze.backbone=lower or freeze.backbone=lora",
                "choose freeze=lower_layers",
            ),
        ),
        (
            ("freeze=gradual",),
            {"freeze.backbone": "all"},
            Problem(
                "freeze.gradual",
                "{'unit': 'epochs', 'start': 1, 'every': 1, 'layers': 2, 'stages': None, 'warmup': 0} beside "
                "freeze.backbone=all, where it means nothing",
                "null, or freeze.backbone=gradual",
                "choose freeze=gradual",
            ),
        ),
        (
            ("freeze=gradual",),
            {"freeze.gradual.stages": {}},
            Problem("freeze.gradual.stages", "no stage", "null, or layers to unfreeze by step: {100: 2, 300: all}"),
        ),
        (
            (),
            {"freeze.backbone": "lora"},
            Problem("freeze.lora", "null", "r, alpha, dropout and targets", "choose freeze=lora"),
        ),
        (
            ("freeze=lora",),
            {"freeze.backbone": "none"},
            Problem(
                "freeze.lora",
                "{'r': 8, 'alpha': 16.0, 'dropout': 0.1, 'targets': ['query', 'key', 'value', 'attention_output', "
                "'feed_forward']} beside freeze.backbone=none, where it means nothing",
                "null, or freeze.backbone=lora",
                "choose freeze=lora",
            ),
        ),
        (
            (),
            {"trainer.max_epochs": None},
            Problem("trainer.max_epochs", "null", "an end: max_epochs or max_steps", "give trainer.max_epochs=3"),
        ),
        ((), {"trainer.min_epochs": 9}, Problem("trainer.min_epochs", "9", "at most trainer.max_epochs, which is 3")),
        (
            (),
            {"trainer.min_steps": 9, "trainer.max_steps": 8},
            Problem("trainer.min_steps", "9", "at most trainer.max_steps, which is 8"),
        ),
        (
            (),
            {"trainer.check_val_every_n_epoch": 4},
            Problem("trainer.check_val_every_n_epoch", "4", "at most trainer.max_epochs, which is 3"),
        ),
        (
            ("callbacks=early_stopping",),
            {"trainer.limit_val_batches": 0},
            Problem(
                "trainer.limit_val_batches",
                "0: nothing is validated, and callbacks.early_stopping waits for it",
                "a number from 1 on, or callbacks=default",
            ),
        ),
        (
            (),
            {"callbacks.monitor": "val/sentiment/macro-f1"},
            Problem("callbacks.monitor", "'val/sentiment/macro-f1'", MONITORED, "did you mean val/sentiment/macro_f1?"),
        ),
        (
            (),
            {"callbacks.monitor": "val/topic/accuracy"},
            Problem("callbacks.monitor", "'val/topic/accuracy'", MONITORED, "did you mean val/accuracy?"),
        ),
        (
            (),
            {"backbone.random": False},
            Problem(
                "backbone",
                "no source of weights",
                "name, path or package",
                "choose backbone=mpnet or give backbone.path=…",
            ),
        ),
        (
            (),
            {"backbone.name": "a/b"},
            Problem(
                "backbone",
                "random: true and name: 'a/b'",
                "one source of weights; only path goes before another",
                "backbone.random=false or backbone.name=null",
            ),
        ),
    ],
)
def test_values_that_do_not_go_together(arguments: tuple[str, ...], changes: dict[str, Any], problem: Problem) -> None:
    assert problems(changes, *arguments) == [problem]


@pytest.mark.parametrize(
    ("changes", "arguments", "found"),
    [
        ({"optimizer.weight_decay": 1e39}, (), "1e+39, which times learning_rates.heads=0.0001 is 1e+35"),
        (
            {"optimizer.weight_decay": 2.0, "learning_rates.upper": 0.5},
            (),
            "2, which times learning_rates.upper=0.5 is 1",
        ),
        ({"optimizer.weight_decay": 2000.0}, ("freeze=lora",), "2000, which times learning_rates.lora=0.0005 is 1"),
    ],
)
def test_a_weight_decay_that_turns_weights_over(
    changes: dict[str, Any], arguments: tuple[str, ...], found: str
) -> None:
    expected = "a decay that times the highest rate is below 1: AdamW multiplies weights by what is left of 1"
    repair = "give optimizer.weight_decay=0.01"
    assert problems(changes, *arguments) == [Problem("optimizer.weight_decay", found, expected, repair)]


def test_the_problems_of_all_sections_come_together() -> None:
    changes = {
        "seed": "x",
        "data.batch_size": 0,
        f"{SENTIMENT}.labels": ["bad"],
        "freeze.heads": ["mood", "topic"],
        "learning_rates.factor": 0.5,
        "trainer.min_epochs": 9,
        "callbacks.monitor": "val/loss",
    }
    assert [problem.place for problem in problems(changes)] == [
        "seed",
        "data.batch_size",
        "learning_rates.factor",
        f"{SENTIMENT}.labels",
        "freeze.heads",
        "freeze.heads",
        "trainer.min_epochs",
        "callbacks.monitor",
    ]


def test_a_fault_of_a_value_hides_what_only_follows_from_it() -> None:
    assert [each.place for each in problems({"trainer.max_epochs": "three"})] == ["trainer.max_epochs"]
    assert [each.place for each in problems({SENTIMENT: None})] == [SENTIMENT]


@pytest.mark.parametrize(
    ("group", "kind", "keys"),
    [
        ("layerwise", Layerwise, ["heads", "lora", "upper", "lower", "upper_layers"]),
        ("decay", Decay, ["heads", "lora", "top", "factor"]),
        ("uniform", Uniform, ["heads", "lora", "backbone"]),
    ],
)
def test_each_kind_of_learning_rates_has_its_own_keys(group: str, kind: type, keys: list[str]) -> None:
    arguments = [f"learning_rates={group}"]
    assert isinstance(load(composed(*arguments)).learning_rates, kind)
    wrong = problems({f"learning_rates.{key}": 2.0 for key in keys} | {"learning_rates.tpo": 1e-5}, *arguments)
    assert {problem.place for problem in wrong} == {f"learning_rates.{key}" for key in (*keys, "tpo")}
    assert next(each for each in wrong if each.place.endswith("tpo")).expected == ", ".join(["kind", *keys])


def test_numeric_names_are_texts() -> None:
    changes = {
        f"{SENTIMENT}.labels": [0, 1, 2.5, True],
        f"{SENTIMENT}.train": 2024,
        f"{SENTIMENT}.text_column": 0,
        "model.init_from": 7,
        "backbone.revision": 1234567,
    }
    config = load(changed(changes))
    task = config.data.tasks["sentiment"]
    assert (task.labels, task.train, task.text_column) == (["0", "1", "2.5", "true"], "2024", "0")
    assert (config.model.init_from, config.backbone.revision) == ("7", "1234567")


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rates.upper_layers": 2},
        {"learning_rates.upper_layers": 0.99},
        {"optimizer.warmup": 0},
        {"optimizer.warmup": 0.0},
        {"optimizer.warmup": 500},
        {"optimizer.eps": 1e-15},
        {"optimizer.weight_decay": 9000.0},  # times the heads' rate of 1e-4
        {"trainer.limit_train_batches": 1.0},
        {"trainer.limit_val_batches": 0},
        {"trainer.limit_val_batches": 0.0},
        {"trainer.devices": 1},
        {"trainer.devices": [2]},
        {"trainer.devices": 2},
        {"trainer.devices": [0, 1], "trainer.strategy": "ddp"},
        {"trainer.strategy": "auto"},
        {"trainer.precision": 32},
        {"trainer.max_time": "00:12:00:00"},
        {"trainer.max_time": {"days": 1, "hours": 2}},
        {"trainer.max_epochs": None, "trainer.max_steps": 10},
        {"trainer.max_epochs": None, "trainer.fast_dev_run": True},
        {"trainer.min_epochs": 3},
        {"freeze.heads": "all"},
        {"freeze.heads": ["sentiment"]},
        {"callbacks.monitor": "val/sentiment/accuracy"},
        {"backbone.path": "a/folder", "backbone.name": "a/b"},
        {"heads.tasks.sentiment": {"kind": "mlp", "dropout": 0.0, "hidden": 8}},
        {"data.tasks.type": {"path": "a.csv"}},
        {"data.tasks.new": {"train": "a.csv", "test": "b.csv"}},
    ],
)
def test_values_at_the_edge_are_good(changes: dict[str, Any]) -> None:
    assert isinstance(load(changed(changes)), Config)


def test_missing_and_unresolvable_values_come_with_the_other_problems() -> None:
    values = changed({"seed": "${nowhere}", "backbone.max_length": "???", "data.batch_size": 0})
    values["data"]["tasks"]["sentiment"]["labels"] = ["${trainer.max_epochs}", "${oc.env:MTL_NOT_SET}"]
    with pytest.raises(ConfigError) as caught:
        load(OmegaConf.create(values))
    expected = "a value that can be resolved"
    environment = "KeyError raised while resolving interpolation: \"Environment variable 'MTL_NOT_SET' not found\""
    assert list(caught.value.problems) == [
        Problem(f"{SENTIMENT}.labels.1", environment, expected, f"give {SENTIMENT}.labels.1=…"),
        Problem("backbone.max_length", "no value (???)", expected, "give backbone.max_length=…"),
        Problem("seed", "Interpolation key 'nowhere' not found", expected, "give seed=…"),
        Problem("data.batch_size", "0", "greater than or equal to 1"),
    ]


def test_interpolations_take_their_value_from_elsewhere() -> None:
    values = changed({"seed": "${trainer.max_epochs}"})
    assert load(OmegaConf.create(values)).seed == 3


def test_nothing_at_all_names_every_section() -> None:
    with pytest.raises(ConfigError) as caught:
        load({})
    assert [problem.place for problem in caught.value.problems] == list(Config.__dataclass_fields__)
    assert {problem.found for problem in caught.value.problems} == {"nothing"}


def test_other_ways_to_train_in_parallel_are_refused() -> None:
    expected = "ddp, auto, which is the same where trainer.devices is more than one, or fsdp"
    assert problems({"trainer.strategy": "deepspeed"}) == [
        Problem("trainer.strategy", "'deepspeed'", expected, "give trainer.strategy=ddp")
    ]
    assert problems({"trainer.strategy": "fsdp", "trainer.precision": "16-mixed"}) == [
        Problem("trainer.precision", "16-mixed beside trainer.strategy=fsdp", "bf16-mixed, 32-true or auto")
    ]


def test_several_processes_do_not_combine_gradients() -> None:
    found = "2 beside loss.combine=upgrad, which needs the gradients of all rows at once"
    repair = "give trainer.devices=1, or loss.combine=sum, uncertainty, dwa or famo"
    assert problems({"trainer.devices": 2, "loss.combine": "upgrad"}) == [
        Problem("trainer.devices", found, "one device", repair)
    ]
    assert [problem.place for problem in problems({"trainer.num_nodes": 2, "loss.combine": "upgrad"})] == [
        "trainer.devices"
    ]


def whole_numbers(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield the keys of all whole numbers."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from whole_numbers(value, f"{above}{name}.")
        elif isinstance(value, int) and not isinstance(value, bool):
            yield above + name


@pytest.mark.parametrize("arguments", [("freeze=lora",), ("freeze=gradual", "callbacks=early_stopping")])
def test_every_size_has_an_upper_bound(arguments: tuple[str, ...]) -> None:
    names = [name for name in whole_numbers(composed(*arguments)) if name not in RATES]
    assert {"data.batch_size", "trainer.max_epochs", "callbacks.bad_steps.most_in_a_row"} <= set(names)
    for name in names:
        (problem,) = problems({name: 10**20}, *arguments)
        assert (problem.place, problem.found) == (name, str(10**20))
        assert problem.expected.startswith(("less than ", "auto, a number from 1 to 1024"))


RATES = {
    "callbacks.save_every_minutes",
    "freeze.gradual.layers",
    "freeze.gradual.warmup",
    "loss.dwa.temperature",
    "data.temperature",
    "freeze.lora.alpha",
    "heads.default.scale",
}
"""Whole numbers in the files that may be any number."""


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"trainer.devices": 1025}, Problem("trainer.devices", "1025", DEVICES)),
        ({"trainer.max_time": "999999:00:00:00"}, Problem("trainer.max_time", "'999999:00:00:00'", DURATION)),
        ({"trainer.max_time": {"days": 10**9}}, Problem("trainer.max_time", "{'days': 1000000000}", DURATION)),
        ({"trainer.max_time": {"hours": -1}}, Problem("trainer.max_time", "{'hours': -1}", DURATION)),
    ],
)
def test_sizes_have_bounds_that_mean_something(changes: dict[str, Any], problem: Problem) -> None:
    assert problems(changes) == [problem]
