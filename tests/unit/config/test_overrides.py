"""Single arguments in Hydra's grammar: read, checked against the groups, and written for Hydra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.override_parser.types import QuotedString

from mtl.base.errors import ConfigError, Problem
from mtl.base.files import CONF
from mtl.config import overrides
from mtl.config.overrides import lines_of
from tests.support.configs import GROUPS

OPTIONS = overrides.groups_in([CONF])
LOSSES = "aligned_mtl, dwa, famo, mgda, pcgrad, sum, uncertainty, upgrad, weighted"
FREEZE = "all, backbone, classification_head, gradual, lora, lower_layers, none, sentiment_head"
TASK = "data.tasks.mood.train"


def one(line: str) -> overrides.Argument:
    """Return an argument that can be parsed."""
    found, problems = overrides.parse([line], OPTIONS)
    assert problems == []
    return found[0]


def unreadable(line: str) -> Problem:
    """Return why an argument cannot be parsed."""
    found, problems = overrides.parse([line], OPTIONS)
    assert found == []
    return problems[0]


def wrong(line: str, *, multirun: bool = False) -> list[Problem]:
    """Return what is wrong with an argument that can be parsed."""
    return list(overrides.problems_of(one(line), multirun))


def test_groups_are_the_folders_without_their_base_files() -> None:
    assert {group: sorted(set(names) - {"base"}) for group, names in GROUPS.items()} == OPTIONS


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            "trainer.max_epochs",
            Problem("trainer.max_epochs", "no value", "group=option or key=value", "give trainer.max_epochs=…"),
        ),
        (
            "quickstart",
            Problem("quickstart", "no value", "group=option or key=value", "did you mean experiment=quickstart?"),
        ),
        (
            "backbone/mpnet",
            Problem("backbone/mpnet", "no value", "group=option or key=value", "did you mean backbone=mpnet?"),
        ),
        ("=3", Problem("=3", "no key", "group=option or key=value")),
        (
            f"{TASK}=résumé.csv",
            Problem(
                TASK,
                "résumé.csv, which cannot be read: token recognition error at: 'é'",
                "a value",
                f"""quote it: '{TASK}="résumé.csv"'""",
            ),
        ),
        (
            f"{TASK}=~/a.csv",
            Problem(
                TASK,
                "~/a.csv, which cannot be read: token recognition error at: '~'",
                "a value",
                f"""quote it: '{TASK}="~/a.csv"'""",
            ),
        ),
        (
            f"{TASK}=reviews (1).csv",
            Problem(
                TASK,
                "reviews (1).csv, which cannot be read: mismatched input '.' expecting <EOF>",
                "a value",
                f"""quote it: '{TASK}="reviews (1).csv"'""",
            ),
        ),
        (
            f'{TASK}=say "hi" & go.csv',
            Problem(
                TASK,
                'say "hi" & go.csv, which cannot be read: mismatched input \'"hi"\' expecting <EOF>',
                "a value",
                f"""quote it: '{TASK}="say \\"hi\\" & go.csv"'""",
            ),
        ),
        (
            "seed=${",
            Problem(
                "seed",
                "${, which cannot be read: extraneous input '{' expecting <EOF>",
                "a value",
                """quote it: 'seed="${"'""",
            ),
        ),
        (
            "seed=[1",
            Problem(
                "seed",
                "[1, which cannot be read: no viable alternative at input '[1'",
                "a value",
                """quote it: 'seed="[1"'""",
            ),
        ),
        ("seed=range(0,3,0)", Problem("seed", "range(0,3,0): range() arg 3 must not be zero", "values to sweep over")),
    ],
)
def test_what_cannot_be_read_says_how_to_write_it(line: str, problem: Problem) -> None:
    assert unreadable(line) == problem


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (f'{TASK}="résumé (1), ~ & co.csv"', "résumé (1), ~ & co.csv"),
        (f"{TASK}=my file.csv", "my file.csv"),
        (f"{TASK}=/a/b-c_d.e/f@2x.csv", "/a/b-c_d.e/f@2x.csv"),
        (f'{TASK}="say \\"hi\\".csv"', 'say "hi".csv'),
        ("data.tasks.mood.labels=[0,1]", [0, 1]),
        ('data.tasks.mood.labels=["a, b",c d]', ["a, b", "c d"]),
        ("heads.tasks.mood={kind:mlp,dropout:0.1}", {"kind": "mlp", "dropout": 0.1}),
    ],
)
def test_values_that_can_be_read(line: str, value: object) -> None:
    assert one(line).override.value() == value


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("freeze=gradul", Problem("freeze", "'gradul'", FREEZE, "did you mean gradual?")),
        ("freeze=", Problem("freeze", "''", FREEZE)),
        ("freeze=[none]", Problem("freeze", "'[none]'", FREEZE, "did you mean none?")),
        ("+freeze=x", Problem("freeze", "'x'", FREEZE)),
        ("++freeze=x", Problem("freeze", "'x'", FREEZE)),
        ("freeze=null", Problem("freeze", "null", FREEZE, "leave freeze out for its default")),
        ("loss=gradnorm", Problem("loss", "'gradnorm'", LOSSES)),
        ("freeze=none,all", Problem("freeze", "none,all", "one value", "add -m for a sweep")),
        (
            "seed=1,2",
            Problem(
                "seed",
                "1,2",
                "one value",
                """add -m for a sweep; for a text with a comma: 'seed="1,2"'; for a list: seed=[1,2]""",
            ),
        ),
        ("seed=range(0,3)", Problem("seed", "range(0,3)", "one value", "add -m for a sweep")),
        ("seed=choice(1,2)", Problem("seed", "choice(1,2)", "one value", "add -m for a sweep")),
    ],
)
def test_a_wrong_choice_or_an_unexpected_sweep(line: str, problem: Problem) -> None:
    assert wrong(line) == [problem]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("freeze=none,al,all", Problem("freeze", "'al'", FREEZE, "did you mean all?")),
        ("freeze=glob(x*)", Problem("freeze", "glob(x*), which gives no value", "values to sweep over")),
        ("seed=glob(*)", Problem("seed", "glob(*), which gives no value", "values to sweep over")),
        ("seed=range(3,0)", Problem("seed", "range(3,0), which gives no value", "values to sweep over")),
    ],
)
def test_a_sweep_that_cannot_be(line: str, problem: Problem) -> None:
    assert wrong(line, multirun=True) == [problem]


@pytest.mark.parametrize(
    "line",
    ["freeze=base", "freeze=gradual", "+freeze=all", "freeze='all'", "~freeze", "seed=1", "trainer.max_epochs=x"],
)
def test_nothing_is_wrong_by_itself(line: str) -> None:
    assert wrong(line) == []


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("seed=1", ("1",)),
        ("learning_rates.heads=tag(log,interval(1e-4,0.1))", ("0.0001", "0.1")),
        ("seed=1,2", ("1", "2")),
        ("seed=range(1,4)", ("1", "2", "3")),
        ("freeze=glob(*_head)", ("classification_head", "sentiment_head")),
        ("freeze=glob(*,exclude=[*_head,a*])", ("backbone", "gradual", "lora", "lower_layers", "none")),
        ("~seed", ()),
    ],
)
def test_the_values_of_a_sweep(line: str, values: tuple[str, ...]) -> None:
    assert one(line).values == values


def test_an_endless_sweep_is_cut() -> None:
    assert len(one(f"seed=range(0,{10**12})").values) == overrides.MOST_VALUES


@pytest.mark.parametrize(
    ("line", "forced"),
    [
        ("trainer.max_epochs=3", "++trainer.max_epochs=3"),
        ("+trainer.profiler=simple", "++trainer.profiler=simple"),
        ("++trainer.max_epochs=3", "++trainer.max_epochs=3"),
        ("seed=1,2", "++seed=1,2"),
        ("freeze=all", "freeze=all"),
        ("+experiment=quickstart", "experiment=quickstart"),
        ("freeze=glob(*_head)", "freeze=classification_head,sentiment_head"),
        ("~trainer.max_epochs", "~trainer.max_epochs"),
        ("heads.mood=mlp", "++heads.mood.kind=mlp"),
        ("+heads.mood='mlp'", "++heads.mood.kind='mlp'"),
        ("heads.mood=mlp,linear", "++heads.mood.kind=mlp,linear"),
        ("heads.default=mlp", "++heads.default.kind=mlp"),
        ("heads.mood={kind:mlp}", "++heads.mood={kind:mlp}"),
        ("heads.mood=null", "++heads.mood=null"),
        ("~heads.mood", "~heads.mood"),
        ("heads.tasks=mlp", "++heads.tasks=mlp"),
        ("loss.combine=sum", "++loss.combine=sum"),
        ("loss.mood=focal", "++loss.mood.kind=focal"),
        ("loss.mood.weighting=balanced", "++loss.mood.weighting=balanced"),
        ("hydra.run.dir=x", "hydra.run.dir=x"),
        ("hydra/launcher=basic", "hydra/launcher=basic"),
        ("+backbone@other=tiny", "+backbone@other=tiny"),
    ],
)
def test_keys_are_forced_and_groups_are_not(line: str, forced: str) -> None:
    assert one(line).forced() == forced


def test_one_value_of_a_sweep_is_forced_alike() -> None:
    assert one("seed=1,2").forced("2") == "++seed=2"
    assert one("heads.mood=mlp,linear").forced("mlp") == "++heads.mood.kind=mlp"
    assert one("freeze=glob(*_head)").forced("sentiment_head") == "freeze=sentiment_head"


def test_a_group_of_the_user_stays_as_it_is() -> None:
    groups = {**OPTIONS, "extra": ["mine"]}
    argument = overrides.parse(["+extra=mine"], groups)[0][0]
    assert argument.forced() == "+extra=mine"


def test_a_number_of_too_many_digits_is_no_traceback() -> None:
    assert unreadable(f"seed={'1' * 5000}").found.endswith(
        "which cannot be read: Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits; "
        "use sys.set_int_max_str_digits() to increase the limit"
    )


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("tiny", "tiny"),
        ("True", "'True'"),
        ("null", "'null'"),
        ("1e5", "'1e5'"),
        ("a b,c=d", "'a b,c=d'"),
        ("it's", r"'it\'s'"),
        (r"C:\new\\", None),
        ("größe: [x] {y}", "'größe: [x] {y}'"),
        ("", "''"),
        (Path("a/b.csv"), "'a/b.csv'"),
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (np.int64(3), "3"),
        (0.1, "0.1"),
        (np.float32(0.5), "0.5"),
        (1e-05, "1e-05"),
        ([0.8, 0.1, 0.1], "[0.8,0.1,0.1]"),
        (("good", "so so", None), "[good,'so so',null]"),
        ([], "[]"),
    ],
)
def test_python_values_are_written_so_that_they_are_read_again(value: Any, written: str | None) -> None:
    (line,) = lines_of({"a": {"b": value}})
    assert written is None or line == f"a.b={written}"
    ((argument,), problems) = overrides.parse([line], {})
    assert problems == []
    assert (argument.key, argument.sweeps) == ("a.b", False)
    read = argument.override.value()
    plain = [
        text.text if isinstance(text, QuotedString) else text for text in (read if isinstance(read, list) else [read])
    ]
    expected = [*value] if isinstance(value, list | tuple) else [str(value) if isinstance(value, Path) else value]
    assert plain == expected


def test_sections_become_dotted_keys() -> None:
    settings = {"freeze": "none", "trainer": {"max_epochs": 3}, "loss": {"weights": {"topic": 2}}, "heads.topic": "mlp"}
    lines = ["freeze=none", "trainer.max_epochs=3", "loss.weights.topic=2", "heads.topic=mlp"]
    assert lines_of(settings) == lines


def test_values_that_no_argument_can_hold() -> None:
    with pytest.raises(ConfigError) as caught:
        lines_of({"a": {"b": object()}, "c": [{1}], "d": float("nan"), "e": 1})
    expected = "a text, a number, True, False, None, or a list of them"
    assert caught.value.problems == (
        Problem("a.b", "a value of type object", expected),
        Problem("c", "a value of type set", expected),
        Problem("d", "a value of type float", expected),
    )
