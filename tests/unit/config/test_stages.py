"""Multi-stage heads in a configuration: what is refused before any file is read."""

from __future__ import annotations

from typing import Any

import pytest

from mtl.base.errors import ConfigError, Problem
from mtl.config.checks import load
from mtl.config.fields import FirstStageConfig, MultiStageConfig
from tests.support.configs import changed

PLACE = "heads.tasks.classification"
TREE = {"bad": ["late", "lost"], "good": ["fine"]}


def head(**settings: Any) -> dict[str, Any]:
    return {"kind": "multi_stage", "dropout": 0.1, **settings}


def problems(**settings: Any) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load(changed({PLACE: head(**settings)}))
    return list(caught.value.problems)


def test_a_head_with_everything() -> None:
    settings = head(
        tree=TREE, stage_kind="mlp", hidden=5, first_stage={"task": "sentiment", "map": {"bad": "negative"}}
    )
    assert load(changed({PLACE: settings})).heads.tasks["classification"] == MultiStageConfig(
        kind="multi_stage",
        dropout=0.1,
        scale=1.0,
        tree=TREE,
        stage_kind="mlp",
        hidden=5,
        first_stage=FirstStageConfig("sentiment", {"bad": "negative"}),
    )


def test_labels_that_look_like_numbers() -> None:
    found = load(changed({PLACE: head(tree={"low": [1, 2], "high": [3]})})).heads.tasks["classification"]
    assert isinstance(found, MultiStageConfig)
    assert found.tree == {"low": ["1", "2"], "high": ["3"]}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {},
            Problem(
                f"{PLACE}.tree",
                "null, and separator: null",
                "the coarse classes with their labels",
                f"give {PLACE}.tree={{coarse class: [labels], …}} or {PLACE}.separator=…",
            ),
        ),
        (
            {"tree": TREE, "separator": ":"},
            Problem(f"{PLACE}.separator", "':' beside a tree", "a tree or a separator", f"give {PLACE}.separator=null"),
        ),
        (
            {"tree": TREE, "hidden": 3},
            Problem(f"{PLACE}.hidden", "3", "null: a linear stage has no hidden layer", f"give {PLACE}.stage_kind=mlp"),
        ),
        (
            {"tree": {"bad": ["late", "lost"]}},
            Problem(f"{PLACE}.tree", "1 branch: bad", "at least two branches, the coarse classes"),
        ),
        (
            {"tree": TREE, "first_stage": {"task": "sentimnt"}},
            Problem(f"{PLACE}.first_stage.task", "the task 'sentimnt'", "sentiment", "did you mean sentiment?"),
        ),
        (
            {"tree": TREE, "first_stage": {"task": "classification"}},
            Problem(
                f"{PLACE}.first_stage.task",
                "'classification', the task itself",
                "another task, whose head does not need this one",
            ),
        ),
        (
            {"tree": TREE, "first_stage": {"task": "sentiment", "map": {"god": "positive"}}},
            Problem(f"{PLACE}.first_stage.map.god", "the branch 'god'", "bad, good", "did you mean good?"),
        ),
        ({"tree": [1]}, Problem(f"{PLACE}.tree", "[1]", "keys with values")),
        ({"tree": TREE, "stage_kind": "conv"}, Problem(f"{PLACE}.stage_kind", "'conv'", "linear, mlp")),
        (
            {"tree": TREE, "stages": 2},
            Problem(
                f"{PLACE}.stages",
                "an unknown key",
                "kind, dropout, scale, tree, separator, stage_kind, hidden, first_stage",
                f"did you mean {PLACE}.stage_kind?",
            ),
        ),
    ],
)
def test_what_is_refused(settings: dict[str, Any], expected: Problem) -> None:
    assert problems(**settings) == [expected]


def test_all_problems_of_all_heads_come_together() -> None:
    other = {"heads.tasks.sentiment": head(tree=TREE, first_stage={"task": "classification"})}
    broken = head(tree={"a": ["1"], "b": []}, separator="/", first_stage={"task": "sentiment", "map": {"x": "y"}})
    with pytest.raises(ConfigError) as caught:
        load(changed({PLACE: broken, **other, "seed": -1}))
    assert [(problem.place, problem.found) for problem in caught.value.problems] == [
        ("seed", "-1"),
        (f"{PLACE}.separator", "'/' beside a tree"),
        (f"{PLACE}.tree.b", "no label"),
        (f"{PLACE}.first_stage.map.x", "the branch 'x'"),
        (f"{PLACE}.first_stage.task", "a circle: classification → sentiment → classification"),
    ]


def test_the_default_of_all_tasks_has_one_stage() -> None:
    with pytest.raises(ConfigError) as caught:
        load(changed({"heads.default.kind": "multi_stage"}))
    assert list(caught.value.problems) == [Problem("heads.default.kind", "'multi_stage'", "linear, mlp")]
