"""Plain data against a dataclass: what is accepted, and the whole text of what is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass

from mtl.base import schema
from mtl.base.errors import Problem


@dataclass(config=schema.STRICT)
class Cat:
    """A branch of a union."""

    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


@dataclass(config=schema.STRICT)
class Dog:
    """The other branch."""

    kind: Literal["dog"]
    tricks: list[str]


@dataclass(config=schema.STRICT)
class Home:
    """A dataclass with a field of every kind."""

    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    rooms: dict[str, Annotated[float, Field(gt=0)]]
    floor: Literal["wood", "stone"] = "wood"
    doors: list[str] | Literal["all"] = "all"
    warm: bool = True
    address: str | None = None
    sizes: Annotated[list[float], Field(min_length=2, max_length=3)] = Field(default_factory=lambda: [1.0, 2.0])


def circular() -> dict[str, Any]:
    values: dict[str, Any] = {}
    values["rooms"] = values
    return values


GOOD: dict[str, Any] = {"pet": {"kind": "cat", "lives": 9}, "rooms": {"kitchen": 12}}


def problems(**changes: Any) -> list[Problem]:
    """Return the problems of a good home with some values changed, once it is clear that there is no home."""
    home, found = schema.check(Home, {**GOOD, **changes})
    assert home is None
    return found


def test_good_values_become_the_object() -> None:
    home, found = schema.check(Home, GOOD)
    assert found == []
    assert home == Home(pet=Cat(kind="cat", lives=9), rooms={"kitchen": 12.0})


def test_a_whole_number_is_a_number() -> None:
    home, _ = schema.check(Home, {**GOOD, "sizes": [1, 2]})
    assert home is not None
    assert home.sizes == [1.0, 2.0]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"flor": "wood"},
            Problem("flor", "an unknown key", "pet, rooms, floor, doors, warm, address, sizes", "did you mean floor?"),
        ),
        ({"floor": "stona"}, Problem("floor", "'stona'", "wood, stone", "did you mean stone?")),
        ({"floor": None}, Problem("floor", "null", "wood, stone")),
        ({"floor": True}, Problem("floor", "true", "wood, stone")),
        ({"warm": 1}, Problem("warm", "1", "true or false")),
        ({"warm": "yes"}, Problem("warm", "'yes'", "true or false")),
        ({"address": 12}, Problem("address", "12", "a text")),
        ({"rooms": None}, Problem("rooms", "null", "keys with values")),
        ({"rooms": [1]}, Problem("rooms", "[1]", "keys with values")),
        ({"rooms": {"hall": "big"}}, Problem("rooms.hall", "'big'", "a number")),
        ({"rooms": {"hall": 0}}, Problem("rooms.hall", "0", "greater than 0")),
        ({"rooms": {"hall": float("inf")}}, Problem("rooms.hall", "inf", "a finite number")),
        ({"rooms": {"hall": float("nan")}}, Problem("rooms.hall", "nan", "a finite number")),
        ({"sizes": [1.0]}, Problem("sizes", "[1.0]", "at least 2 values")),
        ({"sizes": [1.0] * 4}, Problem("sizes", "[1.0, 1.0, 1.0, 1.0]", "at most 3 values")),
        ({"sizes": [1.0, "x"]}, Problem("sizes.1", "'x'", "a number")),
        ({"sizes": 3}, Problem("sizes", "3", "a list", "give sizes=[3]")),
        ({"doors": "front"}, Problem("doors", "'front'", "a list, or all", "give doors=[front]")),
        ({"doors": None}, Problem("doors", "null", "a list, or all")),
        ({"doors": ["front", 2]}, Problem("doors.1", "2", "a text")),
        ({"pet": "cat"}, Problem("pet", "'cat'", "keys with values")),
        ({"pet": None}, Problem("pet", "null", "keys with values")),
        ({"pet": {"lives": 3}}, Problem("pet.kind", "null", "cat, dog")),
        ({"pet": {"kind": "cow", "lives": 3}}, Problem("pet.kind", "'cow'", "cat, dog")),
        ({"pet": {"kind": "cot", "lives": 3}}, Problem("pet.kind", "'cot'", "cat, dog", "did you mean cat?")),
        ({"pet": {"kind": "cat", "lives": 10}}, Problem("pet.lives", "10", "less than or equal to 9")),
        ({"pet": {"kind": "cat", "lives": 2.5}}, Problem("pet.lives", "2.5", "a whole number")),
        ({"pet": {"kind": "cat", "lives": "9"}}, Problem("pet.lives", "'9'", "a whole number")),
        ({"pet": {"kind": "cat", "lives": True}}, Problem("pet.lives", "true", "a whole number")),
        ({"pet": {"kind": "dog"}}, Problem("pet.tricks", "nothing", "a value", "give pet.tricks=…")),
    ],
)
def test_a_wrong_value_is_told_whole(changes: dict[str, Any], problem: Problem) -> None:
    assert problems(**changes) == [problem]


def test_a_key_of_the_other_branch_is_unknown_in_this_one() -> None:
    assert problems(pet={"kind": "cat", "lives": 3, "tricks": []}) == [
        Problem("pet.tricks", "an unknown key", "kind, lives")
    ]


def test_an_unknown_key_may_be_called_like_the_branch() -> None:
    found = problems(pet={"kind": "cat", "lives": 10, "cat": {"lives": 1}})
    assert [problem.place for problem in found] == ["pet.lives", "pet.cat"]


def test_a_partial_object_has_the_valid_values() -> None:
    values = {**GOOD, "floor": "mud", "pet": {"kind": "dog", "tricks": [1]}, "doors": ["front"]}
    _, found = schema.check(Home, values)
    home = schema.partial(Home, values, found)
    assert (home.rooms, home.doors, home.warm) == ({"kitchen": 12.0}, ["front"], True)
    assert isinstance(home.pet, Dog)
    assert home.pet.kind == "dog"
    for use in (lambda: home.floor == "wood", lambda: f"{home.floor}", lambda: "sit" in home.pet.tricks):
        with pytest.raises(schema.InvalidValueError):
            use()


def test_the_nearest_key_is_named_with_its_path() -> None:
    assert problems(pet={"kind": "cat", "lives": 3, "livs": 3})[0].repair == "did you mean pet.lives?"


def test_all_problems_come_together() -> None:
    found = problems(pet={"kind": "cat", "lives": 0}, rooms={"hall": -1, "bath": 2}, floor="mud", color="red")
    assert [problem.place for problem in found] == ["pet.lives", "rooms.hall", "floor", "color"]


def test_keys_are_those_of_the_chosen_branch() -> None:
    assert schema.keys(Home) == ["pet", "rooms", "floor", "doors", "warm", "address", "sizes"]
    assert schema.keys(Home, ("pet",), branch="dog") == ["kind", "tricks"]
    assert schema.keys(Home, ("pet",)) == ["kind", "lives", "tricks"]
    assert schema.keys(Home, ("rooms",)) == []


def test_a_field_takes_text_if_any_of_its_types_does() -> None:
    assert schema.takes_text(Home, "address")
    assert not schema.takes_text(Home, "floor")
    assert not schema.takes_text(Home, "warm")


@pytest.mark.parametrize(
    ("value", "text"), [(None, "null"), (True, "true"), (False, "false"), (1, "1"), ("a", "'a'"), ([1], "[1]")]
)
def test_values_are_shown_as_yaml_has_them(value: object, text: str) -> None:
    assert schema.shown(value) == text


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({(1, 2): 1}, "keys must be str, int, float, bool or None, not tuple"),
        (circular(), "Circular reference detected"),
    ],
)
def test_what_json_has_not_is_a_problem(values: Any, reason: str) -> None:
    found = schema.check(Home, values)
    assert found == (
        None,
        [Problem("configuration", f"no plain values: {reason}", "keys that are texts, with plain values")],
    )


def test_half_a_surrogate_pair_is_no_traceback() -> None:
    options, problems = schema.check(Home, {"name": "a\udcff"})
    assert options is None
    assert [(problem.place, problem.expected) for problem in problems] == [("configuration", "text in UTF-8")]
