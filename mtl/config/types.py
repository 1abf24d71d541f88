"""Types of configuration values, each with the text that a wrong value is answered with."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from mtl.base.pooling import POOLINGS

_UNITS = ("days", "hours", "minutes", "seconds")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _amount(things: str, *, least: int, up_to_all: bool) -> BeforeValidator:
    """Return the check of a number of things, which is whole, or a share of all, which has a decimal point."""
    share = f"0.0 {'<' if least else '<='} share {'<=' if up_to_all else '<'} 1.0"
    expected = f"a number of {things} from {least} on, or a share of all ({share})"

    def check(value: Any) -> Any:
        if isinstance(value, float):
            good = (0 < value < 1) or (value == 0 and least == 0) or (value == 1 and up_to_all)
        else:
            good = _is_whole(value) and value >= least
        if not good:
            raise ValueError(expected)
        return value

    return BeforeValidator(check)


def _pooling(value: Any) -> Any:
    modes = value.split("+") if isinstance(value, str) else []
    if value != "auto" and (not modes or not set(modes) <= set(POOLINGS)):
        raise ValueError(f"auto, {', '.join(POOLINGS)}, or several of these joined by +: mean+max")
    return value


def _devices(value: Any) -> Any:
    listed = isinstance(value, list) and value and all(_is_whole(index) and index >= 0 for index in value)
    if value == "auto" or listed or (_is_whole(value) and (0 < value <= MOST_DEVICES or value == -1)):
        return value
    raise ValueError(f"auto, a number from 1 to {MOST_DEVICES}, -1 for all, or a list of which ones: [0, 2]")


def _duration(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"\d{1,5}:\d\d:\d\d:\d\d", value):
        return value
    named = isinstance(value, dict) and value and set(value) <= set(_UNITS)
    if named and all(_is_whole(number) and 0 <= number < 10**6 for number in value.values()):
        return value
    raise ValueError(f"days:hours:minutes:seconds, such as 00:12:00:00, or keys of {', '.join(_UNITS)}: {{hours: 12}}")


MOST_DEVICES = 1024
"""More processes than any one machine has devices; on a CPU each is a process of its own."""
Target = Literal["query", "key", "value", "attention_output", "feed_forward"]
"""The linear layers within a layer of the encoder: three before attention, the one behind it, the two behind those."""
Pooling = Annotated[str, BeforeValidator(_pooling)]
Layers = Annotated[int | float, _amount("layers", least=1, up_to_all=False)]
Steps = Annotated[int | float, _amount("steps", least=0, up_to_all=False)]
Batches = Annotated[int | float, _amount("batches", least=1, up_to_all=True)]
BatchesOrNone = Annotated[int | float, _amount("batches", least=0, up_to_all=True)]
Devices = Annotated[int | str | list[int], BeforeValidator(_devices)]
Duration = Annotated[str | dict[str, int], BeforeValidator(_duration)]
