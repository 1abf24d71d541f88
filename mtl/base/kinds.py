"""Kinds of values with bounds, for whatever is read from outside: configurations, arguments, saved models."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


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
