"""Checks plain data against a dataclass and turns every fault that is found into a `Problem`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from mtl.errors import Problem, did_you_mean, listed

STRICT = ConfigDict(extra="forbid", strict=True)
"""No unknown keys and no silent conversions, ``true`` for 1 or ``"3"`` for 3."""

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
        return TypeAdapter(kind).validate_json(json.dumps(values, default=str)), []  # strict only JSON becomes objects
    except ValidationError as error:
        return None, _merged([_problem(kind, detail) for detail in error.errors(include_url=False)])


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
    if detail["type"] == "union_tag_invalid":
        tag = key((*path, str(detail["ctx"]["discriminator"]).strip("'")))
        allowed = [word.strip(" '") for word in detail["ctx"]["expected_tags"].split(",")]
        return Problem(
            tag, repr(detail["ctx"]["tag"]), listed(allowed), did_you_mean(str(detail["ctx"]["tag"]), allowed)
        )
    if detail["type"] == "literal_error":
        allowed = _literals(detail["ctx"]["expected"])
        return Problem(place, repr(detail["input"]), listed(allowed), did_you_mean(str(detail["input"]), allowed))
    return Problem(place, repr(detail["input"]), _expectation(detail))


def _expectation(detail: ErrorDetails) -> str:
    if detail["type"] == "dataclass_type":
        return "keys with values"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return message[0].lower() + message[1:]


def _literals(expected: str) -> list[str]:
    return list(dict.fromkeys(word.strip(" '") for part in expected.split(",") for word in part.split(" or ")))


def key(path: Path) -> str:
    """Return a path as the command line writes it: ``data.tasks.sentiment.train``."""
    return ".".join(str(part) for part in path)


def _merged(problems: list[Problem]) -> list[Problem]:
    """Join the problems of one place: the branches of a union each complain about the same value."""
    by_place: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        known = by_place.get((problem.place, problem.found))
        if known is not None and problem.expected not in known.expected.split(", or "):
            problem = dataclasses.replace(known, expected=f"{known.expected}, or {problem.expected}")
        by_place[problem.place, problem.found] = problem
    return list(by_place.values())


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
