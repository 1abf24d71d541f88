"""What is wrong with a tree of labels, with the whole text of what is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mtl.base.errors import Problem
from mtl.base.label_tree import (
    branches_by,
    circle_problems,
    label_problems,
    loan_problems,
    separator_problems,
    tree_problems,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NO_STAGE = "choose a head of kind linear or mlp"
COARSE = "at least two branches, the coarse classes"
LEAST = "a branch with two labels or more"


@pytest.mark.parametrize(
    ("branches", "expected"),
    [
        ({"a": ["1", "2"], "b": ["3"]}, []),
        ({}, [Problem("t", "0 branches", COARSE)]),
        ({"a": ["1", "2"]}, [Problem("t", "1 branch: a", COARSE)]),
        (
            {"a": ["1"], "b": ["2"]},
            [Problem("t", "a single label in each branch, so that no second stage is left", LEAST, NO_STAGE)],
        ),
        (
            {"a": ["1", "2"], "b": []},
            [Problem("t.b", "no label", "one label or more", "add its labels, or take it out")],
        ),
        ({"a": ["1", "2"], " ": ["3"]}, [Problem("t", "a branch named ' '", "a name for each coarse class")]),
        (
            {"a": ["1", "1"], "b": ["2", "1"]},
            [Problem("t", "the label '1' in a and a and b", "each label once, in one branch")],
        ),
        (
            {"a": ["a", "b"], "b": ["3"]},
            [
                Problem(
                    "t",
                    "the branch 'b', which is also a label of the branch 'a'",
                    "names of branches that mean one thing",
                    "rename the branch",
                )
            ],
        ),
    ],
)
def test_trees(branches: Mapping[str, Sequence[str]], expected: list[Problem]) -> None:
    assert list(tree_problems("t", branches)) == expected


def test_labels_that_are_unknown_or_missing() -> None:
    found = label_problems("t", {"a": ["late", "los"], "b": ["fine"]}, "topic", ["late", "lost", "fine", "rude"])
    assert list(found) == [
        Problem("t.a", "the label 'los', which topic does not have", "late, lost, fine, rude", "did you mean lost?"),
        Problem(
            "t", "no branch for the labels 'lost', 'rude'", "each label of topic in one branch", "add them to a, b"
        ),
    ]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["n: a", "n: b", "p"], []),
        (["n", "n: b", "p"], []),
        (
            ["a", "b"],
            [
                Problem(
                    "h.separator",
                    "':', which no label of topic has",
                    "what divides a label: a, b",
                    "give h.tree={coarse class: [labels]}",
                )
            ],
        ),
        (
            ["n: a", "n: b"],
            [Problem("h.separator", "':', by which all labels of topic are in one branch: n", COARSE)],
        ),
        (
            ["n: a", "p: b"],
            [Problem("h.separator", "':', by which each branch has a single label: n, p", LEAST, NO_STAGE)],
        ),
        (
            [": a", "p: b", "p: c"],
            [Problem("h.separator", "the label ': a', with nothing before ':'", "the name of a coarse class")],
        ),
    ],
)
def test_separators(labels: list[str], expected: list[Problem]) -> None:
    assert list(separator_problems("h.separator", ":", "topic", labels)) == expected


def test_a_label_without_the_separator_is_a_branch() -> None:
    found = branches_by(":", ["positive", "negative: late", "neutral", "negative : a: b"])
    assert found == {
        "positive": ["positive"],
        "negative": ["negative: late", "negative : a: b"],
        "neutral": ["neutral"],
    }


@pytest.mark.parametrize(
    ("branches", "names", "expected"),
    [
        (["bad", "good"], {}, []),
        (["n", "p"], {"n": "bad", "p": "good"}, []),
        (
            ["bad", "neutral", "good"],
            {},
            [
                Problem(
                    "f",
                    "'neutral', for which the head of mood has no class",
                    "coarse classes among the labels of mood: bad, good",
                    "name it with f.map={neutral: …}, or leave first_stage out for one of its own",
                )
            ],
        ),
        (
            ["bad", "good"],
            {"goo": "good"},
            [Problem("f.map.goo", "the branch 'goo'", "bad, good", "did you mean good?")],
        ),
        (
            ["bad", "good"],
            {"good": "god"},
            [Problem("f.map.good", "the label 'god', which mood does not have", "bad, good", "did you mean good?")],
        ),
        (
            ["bad", "good"],
            {"good": "bad"},
            [Problem("f.map", "the label 'bad' of mood for bad and good", "another label for each coarse class")],
        ),
    ],
)
def test_first_stages_of_other_tasks(branches: list[str], names: dict[str, str], expected: list[Problem]) -> None:
    assert list(loan_problems("f", branches, names, "mood", ["bad", "good"])) == expected


@pytest.mark.parametrize(
    ("lenders", "expected"),
    [
        ({"a": "b", "b": "c", "d": "c"}, {}),
        ({"a": "a"}, {"h.a": "'a', the task itself"}),
        ({"x": "a", "a": "b", "b": "c", "c": "a"}, {"h.a": "a circle: a → b → c → a"}),
        ({"a": "b", "b": "a", "c": "c"}, {"h.a": "a circle: a → b → a", "h.c": "'c', the task itself"}),
    ],
)
def test_circles(lenders: dict[str, str], expected: dict[str, str]) -> None:
    allowed = "another task, whose head does not need this one"
    assert circle_problems("h.{}", lenders) == [
        Problem(f"{place}.first_stage.task", found, allowed) for place, found in expected.items()
    ]
