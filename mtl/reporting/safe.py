"""Data text within HTML and within scripts, where none of it can become markup or code."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mtl.base.formatting import one_line

# In a script "</script>" and "<!--" end or change the parser's state, whatever JSON says; U+2028 and U+2029 were line
# ends within JavaScript strings until ES2019.
_IN_SCRIPT = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def text(data: object) -> str:
    """Return data as text of an element or of a quoted attribute, in one line, control characters as U+FFFD."""
    return html.escape(one_line(str(data)), quote=True)


def script_json(value: Any) -> str:
    """Return ``value`` as JSON that may stand in a ``<script>`` element; numbers that are not finite become null."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_IN_SCRIPT)


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case str():
            return one_line(value)
        case Mapping():
            return {str(key): _finite(item) for key, item in value.items()}
        case Sequence():
            return [_finite(item) for item in value]
    return value
