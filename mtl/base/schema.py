"""Check plain data against typed dataclasses, and turn every fault into a `Problem`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from mtl.base.errors import DataError, Problem, did_you_mean, listed


def _as_text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


MOST = 2**31 - 1
"""The most of anything that is counted: more rows, steps or tokens than a run could ever have."""

Number = Annotated[int, Field(ge=0, le=MOST)]
Count = Annotated[int, Field(ge=1, le=MOST)]
Width = Annotated[int, Field(ge=1, le=2**16)]
"""Units of a layer: far more than any encoder has, and few enough for the memory of any machine."""
Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[Annotated[str, Field(min_length=1)], BeforeValidator(_as_text)]
"""A text that may look like a number or a truth value: a label ``0``, a file ``2024``, a commit ``1234567``."""


STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""No unknown keys, no infinite numbers and no silent conversions, ``true`` for 1 or ``"3"`` for 3."""
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "string_too_short": "a text that is not empty",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "keys with values",
    "dataclass_type": "keys with values",
    "model_attributes_type": "keys with values",
}
"""How a user calls what pydantic wants, by the kind of its error."""

T = TypeVar("T")
Path = tuple[str | int, ...]


def check(kind: type[T], values: Mapping[str, Any]) -> tuple[T | None, list[Problem]]:
    """Build ``kind`` from ``values``.

    Args:
        kind: A pydantic dataclass.
        values: Plain nested mappings, lists and scalars.

    Returns:
        The object and no problems, or ``None`` and all problems together.
    """
    try:
        text = json.dumps(values, default=str)
    except (TypeError, ValueError, RecursionError) as error:  # a date as a key; a list that holds itself
        return None, [Problem("configuration", f"no plain values: {error}", "keys that are texts, with plain values")]
    try:
        return TypeAdapter(kind).validate_json(text), []  # strict only JSON becomes objects
    except ValidationError as error:
        return None, _merged([_problem(kind, detail) for detail in error.errors(include_url=False)])


@cache
def _validator(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read_record(kind: type[T], values: Any, source: str) -> T:
    """Build a record from the content of a JSON file; keys that it does not know are ignored.

    Args:
        kind: A dataclass, plain or of pydantic; its numbers have to be annotated as strict.
        values: What ``json.loads`` returned.
        source: The file, for the error.

    Raises:
        DataError: Fields are missing or wrong: all of them, each with its path in the file.
    """
    try:
        record: T = _validator(kind).validate_python(values)  # type: ignore[arg-type] # a class is hashable
    except ValidationError as error:
        raise DataError(_problem_in_file(source, detail) for detail in error.errors(include_url=False)) from None
    return record


def _problem_in_file(source: str, detail: ErrorDetails) -> Problem:
    place = f"{source}: {key(detail['loc'])}" if detail["loc"] else source
    if detail["type"] == "missing":
        return Problem(place, "nothing: the key is missing", "a value")
    return Problem(place, shown(detail["input"]), _expectation(detail))


def keys(kind: Any, path: Path = (), branch: str | int | None = None) -> list[str]:
    """Return the keys that the schema ``kind`` allows at ``path``; none where any key is allowed.

    Args:
        kind: A dataclass.
        path: From its root.
        branch: Where ``path`` leads to a union: the tag of the branch that was chosen.
    """
    candidates = [each for each in _types_at(kind, path) if dataclasses.is_dataclass(each)]
    chosen = [each for each in candidates if branch in _tags(each)] or candidates
    return list(dict.fromkeys(field.name for each in chosen for field in dataclasses.fields(each)))


def takes_text(kind: Any, name: str) -> bool:
    """Tell whether the field ``name`` of the dataclass ``kind`` takes any text."""
    return str in _types_at(kind, (name,))


def _problem(kind: Any, detail: ErrorDetails) -> Problem:
    path = _without_branches(kind, detail["loc"])
    place = key(path)
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        allowed = keys(kind, path[:-1], branch=detail["loc"][-2] if len(detail["loc"]) > 1 else None)
        near = did_you_mean(str(path[-1]), allowed)
        repair = near.replace("mean ", f"mean {key(path[:-1])}." if path[:-1] else "mean ", 1)
        return Problem(place, "an unknown key", listed(allowed, most=40), repair)
    if detail["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return Problem(place, "nothing", "a value", f"give {place}=…")
    if detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
        tag = str(detail["ctx"]["discriminator"]).strip("'")
        return _unknown_word(key((*path, tag)), detail["input"].get(tag), _tags_at(kind, path))
    if detail["type"] == "literal_error":
        return _unknown_word(place, detail["input"], _literals(detail["ctx"]["expected"]))
    scalar = isinstance(detail["input"], str | int | float)
    repair = f"give {place}=[{detail['input']}]" if detail["type"] == "list_type" and scalar else ""
    return Problem(place, shown(detail["input"]), _expectation(detail), repair)


def _unknown_word(place: str, value: Any, allowed: list[str]) -> Problem:
    repair = did_you_mean(value, allowed) if isinstance(value, str) else ""
    return Problem(place, shown(value), listed(allowed), repair)


def _expectation(detail: ErrorDetails) -> str:
    if detail["type"] in _EXPECTED:
        return _EXPECTED[detail["type"]]
    if detail["type"] in ("too_short", "too_long"):
        limit = detail["ctx"].get("min_length") or detail["ctx"]["max_length"]
        return f"{'at least' if detail['type'] == 'too_short' else 'at most'} {limit} values"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return message[0].lower() + message[1:]


def shown(value: Any) -> str:
    """Return a value as a message shows it: texts in quotes, ``null``, ``true`` and ``false`` as in YAML."""
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def _literals(expected: str) -> list[str]:
    return list(dict.fromkeys(word.strip(" '") for part in expected.split(",") for word in part.split(" or ")))


def key(path: Path) -> str:
    """Return a path as the command line writes it: ``data.tasks.sentiment.train``."""
    return ".".join(str(part) for part in path)


def _merged(problems: list[Problem]) -> list[Problem]:
    """Join the problems of one place: the branches of a union each complain about the same value.

    Where one of them found the fault deeper in the value, that is what counts.
    """
    by_place: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        known = by_place.get((problem.place, problem.found))
        if known is not None and problem.expected not in known.expected.split(", or "):
            problem = Problem(
                place=known.place,
                found=known.found,
                expected=f"{known.expected}, or {problem.expected}",
                repair=known.repair or problem.repair,
            )
        by_place[problem.place, problem.found] = problem
    found = list(by_place.values())
    return [each for each in found if not any(other.place.startswith(f"{each.place}.") for other in found)]


def _without_branches(kind: Any, location: Path) -> Path:
    """Drop what pydantic puts into a location to name the branch of a union."""
    path: Path = ()
    for part in location:
        if not path or _has(kind, path, part):
            path = (*path, part)
    return path


def _has(kind: Any, path: Path, part: str | int) -> bool:
    """Tell whether ``part`` is data below ``path`` rather than the name of a union's branch."""
    types = _types_at(kind, path)
    if any(get_origin(each) in (dict, list, tuple) for each in types):
        return isinstance(part, int) or not _is_branch(types, part)
    return any(dataclasses.is_dataclass(each) for each in types) and not _is_branch(types, part)


def _is_branch(types: list[Any], part: str | int) -> bool:
    names = {
        "int",
        "float",
        "str",
        "bool",
        "constrained-int",
        "constrained-float",
        "constrained-str",
        "list[str]",
        "list[int]",
    }
    tags = {tag for each in types if dataclasses.is_dataclass(each) for tag in _tags(each)}
    return len(types) > 1 and (part in names or part in tags or str(part).startswith(("literal[", "function-")))


def _tags(kind: Any) -> tuple[Any, ...]:
    field = next((f for f in dataclasses.fields(kind) if f.name == "kind"), None)
    annotation = _hints(kind)["kind"] if field else None
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _tags_at(kind: Any, path: Path) -> list[str]:
    """Return the tags of the union at ``path``."""
    return [str(tag) for each in _types_at(kind, path) if dataclasses.is_dataclass(each) for tag in _tags(each)]


def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _types_at(kind: Any, path: Path) -> list[Any]:
    types = _branches(kind)
    for part in path:
        types = [found for each in types for found in _child(each, part)]
    return types


def _child(kind: Any, part: str | int) -> list[Any]:
    if dataclasses.is_dataclass(kind):
        hint = _hints(kind).get(str(part))
        return [] if hint is None else _branches(hint)
    if get_origin(kind) is dict:
        return _branches(get_args(kind)[1])
    if get_origin(kind) in (list, tuple):
        return _branches(get_args(kind)[0])
    return []


def _branches(kind: Any) -> list[Any]:
    if get_origin(kind) is Annotated:
        return _branches(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [found for each in get_args(kind) for found in _branches(each)]
    return [kind]
