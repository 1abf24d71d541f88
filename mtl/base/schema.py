"""Check plain data against typed dataclasses, and turn every error into a `Problem`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Set
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from mtl.base.errors import DataError, Problem, did_you_mean, listed


def _as_text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


MOST = 2**31 - 1
"""The upper limit of all counts: more rows, steps or tokens than a run could ever have."""

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
"""What is expected in a user's words, by the type of pydantic's error."""

T = TypeVar("T")
Path = tuple[str | int, ...]
_validator: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def check(kind: type[T], values: Mapping[str, Any]) -> tuple[T | None, list[Problem]]:
    """Build ``kind``, a pydantic dataclass, from plain values, or return ``None`` and all problems together."""
    try:
        text = json.dumps(values, default=str)
    except (TypeError, ValueError, RecursionError) as error:  # a date as a key; a list that holds itself
        return None, [Problem("configuration", f"no plain values: {error}", "keys that are texts, with plain values")]
    try:
        return _validator(kind).validate_json(text), []  # strict only JSON becomes objects
    except ValidationError as error:
        plain = json.loads(text)
        return None, _merged([_problem(kind, plain, detail) for detail in error.errors(include_url=False)])


class InvalidValueError(Exception):
    """A check has used a value that is invalid by itself and has already been reported."""


class _Invalid:
    """Placeholder for an invalid value in a `partial` object: any use but ``is None`` raises `InvalidValueError`."""

    def _refuse(self, *_: object) -> Any:
        raise InvalidValueError

    __bool__ = __contains__ = __format__ = __getattr__ = __getitem__ = __hash__ = __iter__ = __len__ = _refuse
    __eq__ = __ge__ = __gt__ = __le__ = __lt__ = __mul__ = __ne__ = __rmul__ = __str__ = _refuse


def partial(kind: type[T], values: Mapping[str, Any], problems: Iterable[Problem]) -> T:
    """Build ``kind`` from its valid values, so that checks across values can run beside `check`.

    The values that have ``problems`` are placeholders, any use of which raises `InvalidValueError`.
    """
    return cast("T", _partial(kind, values, "", {problem.place for problem in problems}))


def _partial(hint: Any, value: Any, place: str, wrong: Set[str]) -> Any:
    below = f"{place}." if place else ""
    if place in wrong:
        return _Invalid()
    if not any(other.startswith(below) for other in wrong):
        try:
            return TypeAdapter(hint).validate_json(json.dumps(value, default=str))
        except (TypeError, ValueError, RecursionError):
            return _Invalid()
    for branch in _branches(hint) if isinstance(value, Mapping) else ():
        if get_origin(branch) is dict:
            inner = get_args(branch)[1]
            return {str(name): _partial(inner, item, f"{below}{name}", wrong) for name, item in value.items()}
        if dataclasses.is_dataclass(branch) and (not (tags := _tags(branch)) or value.get("kind") in tags):
            built: Any = object.__new__(cast("type", branch))
            for field in dataclasses.fields(branch):
                known = value.get(field.name, _default(field))
                hints = get_type_hints(branch, include_extras=True)
                setattr(built, field.name, _partial(hints[field.name], known, f"{below}{field.name}", wrong))
            return built
    return _Invalid()


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def read_record(kind: type[T], values: Any, source: str) -> T:
    """Build a record from the content of the JSON file ``source``; unknown keys are ignored.

    ``kind`` is a dataclass, plain or of pydantic; its numbers have to be annotated as strict. All fields that are
    missing or wrong raise a `DataError` together.
    """
    try:
        return cast("T", _validator(kind).validate_python(values))
    except ValidationError as error:
        raise DataError(_problem_in_file(source, detail) for detail in error.errors(include_url=False)) from None


def _problem_in_file(source: str, detail: ErrorDetails) -> Problem:
    place = f"{source}: {key(detail['loc'])}" if detail["loc"] else source
    if detail["type"] == "missing":
        return Problem(place, "nothing: the key is missing", "a value")
    return Problem(place, shown(detail["input"]), _expectation(detail))


def keys(kind: Any, path: Path = (), branch: str | int | None = None) -> list[str]:
    """Return the keys that a dataclass allows at ``path``, in this branch of a union; none if any key is allowed."""
    candidates = [candidate for candidate in _types_at(kind, path) if dataclasses.is_dataclass(candidate)]
    chosen = [candidate for candidate in candidates if branch in _tags(candidate)] or candidates
    return list(dict.fromkeys(field.name for candidate in chosen for field in dataclasses.fields(candidate)))


def takes_text(kind: Any, name: str) -> bool:
    """Tell whether the field ``name`` of the dataclass ``kind`` takes any text."""
    return str in _types_at(kind, (name,))


_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")


def _problem(kind: Any, values: Any, detail: ErrorDetails) -> Problem:
    if detail["type"] == "json_invalid":
        return Problem("configuration", f"a text with {detail['ctx']['error']}", "text in UTF-8")
    path = _path(values, detail)
    place = key(path)
    if detail["type"] in _UNKNOWN:
        allowed = keys(kind, path[:-1], branch=detail["loc"][-2] if len(detail["loc"]) > 1 else None)
        near = did_you_mean(str(path[-1]), allowed)
        repair = near.replace("mean ", f"mean {key(path[:-1])}." if path[:-1] else "mean ", 1)
        return Problem(place, "an unknown key", listed(allowed, most=40), repair)
    if detail["type"] in _MISSING:
        return Problem(place, "nothing", "a value", f"give {place}=…")
    if detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
        allowed = [name for candidate in _types_at(kind, path) for name in _tags(candidate)]
        return _unknown_word(key((*path, "kind")), detail["input"].get("kind"), allowed)
    if detail["type"] == "literal_error":
        return _unknown_word(place, detail["input"], _literals(detail["ctx"]["expected"]))
    scalar = isinstance(detail["input"], str | int | float)
    repair = f"give {place}=[{detail['input']}]" if detail["type"] == "list_type" and scalar else ""
    return Problem(place, shown(detail["input"]), _expectation(detail), repair)


def _path(values: Any, detail: ErrorDetails) -> Path:
    """Return the location of a problem in the values: pydantic's without the names of the branches of unions."""
    *parts, last = detail["loc"]
    path: Path = ()
    tag = None
    for part in parts:
        if part == tag:  # after a discriminated union its tag comes first, even if a key has the same name
            tag = None
        elif _has(values, part):
            values, path = values[part], (*path, part)
            tag = values.get("kind") if isinstance(values, Mapping) else None
    return (*path, last) if detail["type"] in (*_UNKNOWN, *_MISSING) or _has(values, last) else path


def _has(values: Any, part: str | int) -> bool:
    return part in values if isinstance(values, Mapping) else isinstance(values, list) and isinstance(part, int)


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
    """Join the problems of one place: each branch of a union reports the same value.

    Problems deeper in the value replace those of the value as a whole.
    """
    by_place: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        known = by_place.get((problem.place, problem.found))
        if known is not None and problem.expected not in known.expected.split(", or "):
            expected = f"{known.expected}, or {problem.expected}"
            problem = dataclasses.replace(known, expected=expected, repair=known.repair or problem.repair)
        by_place[problem.place, problem.found] = problem
    return [
        problem
        for problem in by_place.values()
        if not any(place.startswith(f"{problem.place}.") for place, _ in by_place)
    ]


def _tags(kind: Any) -> tuple[str, ...]:
    """Return the values of the field ``kind`` by which a discriminated union chooses this dataclass."""
    annotation = get_type_hints(kind).get("kind") if dataclasses.is_dataclass(kind) else None
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _types_at(kind: Any, path: Path) -> list[Any]:
    types = _branches(kind)
    for part in path:
        types = [child for parent in types for child in _child(parent, part)]
    return types


def _child(kind: Any, part: str | int) -> list[Any]:
    if dataclasses.is_dataclass(kind):
        hint = get_type_hints(kind).get(str(part))
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
        return [branch for part in get_args(kind) for branch in _branches(part)]
    return [kind]
