"""Settings of single tasks in their short form: what they mean, and errors with the keys as they were written."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from mtl.base.errors import ConfigError, Problem
from mtl.config.checks import load
from mtl.config.command_line import check_command_line
from mtl.config.fields import Config, HeadConfig
from mtl.config.short_forms import settle_tasks, split_alike
from tests.support.configs import changed, compose_config

if TYPE_CHECKING:
    from pathlib import Path

LOSS = "combine, weights, uncertainty, dwa, famo, consistency, default, tasks, or a task: classification, sentiment"
HEADS = "default, tasks, or a task: classification, sentiment"
WEIGHTINGS = "none, balanced, effective_number, logit_adjustment"


def composed(*arguments: str) -> Config:
    """Return what a command line composes to on the tiny backbone."""
    return compose_config(check_command_line(["backbone=tiny", *arguments]).arguments)


def problems(*arguments: str) -> list[Problem]:
    """Return the problems of a command line."""
    with pytest.raises(ConfigError) as caught:
        check_command_line(["backbone=tiny", *arguments])
    return list(caught.value.problems)


def test_a_task_takes_what_it_does_not_give_from_the_default() -> None:
    loss = composed("loss.classification.weighting=balanced", "loss.default.gamma=1").loss
    assert list(loss.tasks) == ["classification"]
    assert asdict(loss.of("classification")) == {**asdict(loss.default), "weighting": "balanced"}
    assert loss.of("classification").gamma == 1
    assert loss.of("sentiment") == loss.default


@pytest.mark.parametrize(
    ("arguments", "head"),
    [
        (["heads.sentiment=mlp"], HeadConfig("mlp", 0.1, 1.0)),
        (["heads.sentiment.kind=mlp", "heads.sentiment.dropout=0.2"], HeadConfig("mlp", 0.2, 1.0)),
        (["heads.sentiment=mlp", "heads.sentiment.dropout=0.2"], HeadConfig("mlp", 0.2, 1.0)),
        (["heads.sentiment.dropout=0.2", "heads.sentiment=mlp"], HeadConfig("mlp", 0.2, 1.0)),
        (["heads.sentiment.dropout=0.2"], HeadConfig("linear", 0.2, 1.0)),
        (["heads.sentiment={kind:mlp,hidden:5}"], HeadConfig("mlp", 0.1, 1.0, 5)),
        (["heads.tasks.sentiment={dropout:0.2}"], HeadConfig("linear", 0.2, 1.0)),
        (["heads.tasks.sentiment=mlp"], HeadConfig("mlp", 0.1, 1.0)),
        (["heads.sentiment=mlp", "heads.tasks.sentiment.hidden=5"], HeadConfig("mlp", 0.1, 1.0, 5)),
        (["heads=mlp", "heads.default.hidden=9"], HeadConfig("mlp", 0.1, 1.0, 9)),
        (["heads=mlp", "heads.default.hidden=9", "heads.sentiment.dropout=0"], HeadConfig("mlp", 0.0, 1.0, 9)),
        (["heads=mlp", "heads.default.hidden=9", "heads.sentiment=linear"], HeadConfig("linear", 0.1, 1.0)),
        (["heads.default=mlp", "heads.default.hidden=9"], HeadConfig("mlp", 0.1, 1.0, 9)),
    ],
)
def test_a_head_in_all_forms(arguments: list[str], head: HeadConfig) -> None:
    assert composed(*arguments).heads.of("sentiment") == head


def test_a_loss_may_be_one_word() -> None:
    assert composed("loss.sentiment=focal", "loss.sentiment.gamma=1").loss.of("sentiment").kind == "focal"


def test_a_resolved_configuration_loads_again_as_it_is() -> None:
    config = composed("loss.classification.weighting=balanced", "heads.sentiment=mlp", "heads=mlp")
    assert load(yaml.safe_load(yaml.safe_dump(asdict(config), sort_keys=False))) == config


def test_the_short_form_in_a_file_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nheads: {sentiment: mlp}\nloss:\n  classification:\n    weighting: balanced\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text, encoding="utf-8")
    own = ["--config-dir", str(tmp_path), "experiment=mine"]
    check_command_line(["backbone=tiny", *own])
    check_command_line(["backbone=tiny", *own, "heads.sentiment=linear"])
    check_command_line(["backbone=tiny", *own, "heads.sentiment.kind=linear", "heads.sentiment.dropout=0.2"])
    assert problems(*own, "loss.classification.weighting=x", "heads.classification=y") == [
        Problem("heads.classification", "'y'", "linear, mlp, multi_stage"),
        Problem("loss.classification.weighting", "'x'", WEIGHTINGS),
    ]
    assert problems(*own, "heads.sentiment.dropout=0.2") == [
        Problem(
            "heads.sentiment",
            "keys below heads.sentiment, which a file gives as the word 'mlp': they would replace it",
            "the kind as a key beside them",
            "add heads.sentiment.kind=mlp",
        )
    ]


def test_every_job_of_a_sweep_is_checked() -> None:
    command = check_command_line(["-m", "backbone=tiny", "loss.classification.weighting=none,balanced"])
    assert command.arguments == ["-m", "backbone=tiny", "++loss.classification.weighting=none,balanced"]
    assert problems("-m", "loss.classification.weighting=none,balancd", "heads.sentiment=mlp,linar") == [
        Problem("loss.classification.weighting", "'balancd'", WEIGHTINGS, "did you mean balanced?"),
        Problem("heads.sentiment", "'linar'", "linear, mlp, multi_stage", "did you mean linear?"),
    ]


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        (
            "loss.clasification.weighting=balanced",
            Problem("loss.clasification", "an unknown key", LOSS, "did you mean loss.classification?"),
        ),
        (
            "loss.classification.wieghting=balanced",
            Problem(
                "loss.classification.wieghting",
                "an unknown key",
                "kind, weighting, weighting_power, beta, tau, gamma, label_smoothing",
                "did you mean loss.classification.weighting?",
            ),
        ),
        (
            "loss.classification.weighting=balance",
            Problem("loss.classification.weighting", "'balance'", WEIGHTINGS, "did you mean balanced?"),
        ),
        ("loss.combin=sum", Problem("loss.combin", "an unknown key", LOSS, "did you mean loss.combine?")),
        (
            "loss.label_smoothing=0.1",
            Problem("loss.label_smoothing", "an unknown key", LOSS, "did you mean loss.default.label_smoothing?"),
        ),
        ("loss.nothing=1", Problem("loss.nothing", "an unknown key", LOSS)),
        ("loss.sentiment=null", Problem("loss.sentiment", "null", "keys with values")),
        ("loss.sentiment.tau=-1", Problem("loss.sentiment.tau", "-1", "greater than or equal to 0")),
        ("loss.default.beta=1.0", Problem("loss.default.beta", "1.0", "less than 1")),
        (
            "loss.tasks.sentimnt.tau=1",
            Problem(
                "loss.tasks.sentimnt", "the task 'sentimnt'", "classification, sentiment", "did you mean sentiment?"
            ),
        ),
        ("heads.sentiment=mpl", Problem("heads.sentiment", "'mpl'", "linear, mlp, multi_stage", "did you mean mlp?")),
        (
            "heads.sentiment.kind=mpl",
            Problem("heads.sentiment.kind", "'mpl'", "linear, mlp, multi_stage", "did you mean mlp?"),
        ),
        ("heads.sentimnt=mlp", Problem("heads.sentimnt", "an unknown key", HEADS, "did you mean heads.sentiment?")),
        ("heads.dropout=0.2", Problem("heads.dropout", "an unknown key", HEADS, "did you mean heads.default.dropout?")),
        ("heads.tasks=mlp", Problem("heads.tasks", "'mlp'", "keys with values")),
        ("heads=[mlp]", Problem("heads", "'[mlp]'", "linear, mlp", "did you mean mlp?")),
        (
            "heads.sentiment.hidden=3",
            Problem(
                "heads.sentiment.hidden",
                "3",
                "null: a linear head has no hidden layer",
                "give heads.sentiment.kind=mlp",
            ),
        ),
    ],
)
def test_what_is_wrong_is_named_as_it_was_written(argument: str, problem: Problem) -> None:
    assert problems(argument) == [problem]


def test_a_fault_of_the_default_is_named_once() -> None:
    given = ["loss.default.gamma=-1", "loss.sentiment.tau=2", "loss.classification.tau=2", "heads.default.hidden=3"]
    assert [each.place for each in problems(*given, "heads.sentiment.dropout=0")] == [
        "loss.default.gamma",
        "heads.default.hidden",
    ]


def test_both_forms_may_not_disagree() -> None:
    assert problems("loss.sentiment.tau=1", "loss.tasks.sentiment.tau=3", "loss.tasks.sentiment.gamma=1") == [
        Problem(
            "loss.sentiment.tau",
            "1 here and 3 at loss.tasks.sentiment.tau",
            "one value",
            "leave loss.sentiment.tau out, or loss.tasks.sentiment.tau",
        )
    ]
    assert composed("loss.sentiment.tau=1", "loss.tasks.sentiment.tau=1").loss.of("sentiment").tau == 1


@pytest.mark.parametrize("wrong", [None, 3, "mlp", ["mlp"], {"default": "mlp"}, {"tasks": None}, {"sentiment": 3}])
def test_anything_may_stand_in_a_section(wrong: Any) -> None:
    values = changed({"heads": wrong})
    with pytest.raises(ConfigError) as caught:
        load(values)
    assert all(each.place.startswith("heads") for each in caught.value.problems)


def test_the_given_values_stay_as_they_are() -> None:
    values = changed({"loss.sentiment": {"tau": 1.0}, "heads.sentiment": "mlp"})
    settled = settle_tasks(values)
    assert values["loss"]["sentiment"] == {"tau": 1.0}
    assert "sentiment" not in settled.values["loss"]
    assert settle_tasks(settled.values).values == settled.values


def test_tasks_that_are_split_off_one_file_name_each_others_columns() -> None:
    tasks = {
        "a": {"path": "t.csv", "label_column": "one"},
        "b": {"train": "./t.csv", "label_column": "two"},
        "other text": {"path": "t.csv", "label_column": "three", "text_column": "title"},
        "own test": {"train": "t.csv", "label_column": "four", "test": "test.csv"},
        "other file": {"path": "u.csv", "label_column": "five"},
        "alone": {"path": "t.csv", "label_column": "six", "split_with": []},
        "wrong": 3,
    }
    values = {"data": {"tasks": tasks}}
    settled = split_alike(values)["data"]["tasks"]
    assert {name: task["split_with"] for name, task in settled.items() if task != 3 and "split_with" in task} == {
        "a": ["one", "two"],
        "b": ["one", "two"],
        "alone": [],
    }
    assert "split_with" not in tasks["a"]  # type: ignore[operator]
    assert split_alike(split_alike(values)) == split_alike(values)


@pytest.mark.parametrize("values", [None, {}, {"data": 3}, {"data": {"tasks": None}}])
def test_splits_of_anything(values: Any) -> None:
    assert split_alike(values) == values
