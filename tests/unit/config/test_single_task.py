"""One task alone: what leaves the configuration with the others, and what is said of a name that is none."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from mtl.base.errors import ConfigError, Problem
from mtl.config.checks import load
from mtl.config.short_forms import TO_BE_GIVEN, alone, reduced
from tests.support.configs import changed, composed

TASKS = "classification, sentiment"


@pytest.mark.parametrize("form", ["short", "schema"])
def test_what_is_configured_for_the_others_leaves_with_them(form: str) -> None:
    own: dict[str, Any] = {"classification": {"gamma": 1.0}, "sentiment": {"gamma": 3.0}}
    values = {
        "data": {"tasks": {"classification": {"path": "a"}, "sentiment": {"path": "b"}}, "batch_size": 8},
        "loss": {"weights": {"classification": 2.0, "sentiment": 3.0}, **(own if form == "short" else {"tasks": own})},
        "heads": own if form == "short" else {"tasks": own},
        "freeze": {"heads": ["classification"], "backbone": "none"},
    }
    before = deepcopy(values)
    kept = {"sentiment": {"gamma": 3.0}}
    assert reduced(values, "sentiment") == {
        "task": "sentiment",
        "data": {"tasks": {"sentiment": {"path": "b"}}, "batch_size": 8},
        "loss": {"weights": {"sentiment": 3.0}, **(kept if form == "short" else {"tasks": kept})},
        "heads": kept if form == "short" else {"tasks": kept},
        "freeze": {"heads": [], "backbone": "none"},
    }
    assert values == before


def test_reducing_twice_is_reducing_once() -> None:
    once = reduced(composed(), "sentiment")
    assert reduced(once, "sentiment") == once
    assert alone(once) == (once, [])


def test_without_a_task_all_stay() -> None:
    values = composed()
    assert alone(values) == (values, [])
    assert list(load(values).data.tasks) == ["classification", "sentiment"]


def test_settings_of_the_other_task_may_stay_on_the_command_line() -> None:
    chosen = {"task": "sentiment", "freeze.heads": ["classification"], "loss.classification": {"gamma": 1.0}}
    config = load(changed(chosen))
    assert list(config.data.tasks) == ["sentiment"]
    assert config.freeze.heads == []
    assert config.loss.tasks == {}


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        ("sentimnt", Problem("task", "'sentimnt'", TASKS, "did you mean sentiment?")),
        ("x", Problem("task", "'x'", TASKS, "give task=classification")),
        (TO_BE_GIVEN, Problem("task", "nothing", TASKS, "give task=classification")),
    ],
)
def test_a_name_that_is_no_task(task: str, problem: Problem) -> None:
    with pytest.raises(ConfigError) as caught:
        load(changed({"task": task}))
    assert list(caught.value.problems) == [problem]


@pytest.mark.parametrize("combine", ["famo", "upgrad"])
def test_one_task_goes_with_every_combination(combine: str) -> None:
    changes = {
        "task": "sentiment",
        "loss.combine": combine,
        "data.interleave": "proportional",
        "freeze.backbone": "all",
    }
    assert load(changed(changes)).loss.combine == combine
