"""Render pages, HTML files that work offline, from `templates`; whatever is data is escaped there.

The charts' library, Vega-Lite with Vega and Vega-Embed, comes out of the package ``vl-convert-python`` (BSD-3-Clause),
which bundles them without a network: 0.9 MB, a fifth of Plotly's, drawn as SVG with an ARIA label on every mark, and
with an interpreter in place of ``eval``, so that a page can forbid it. Bundling takes seconds, so it is cached.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from mtl.base.files import cache_root, write_text_atomically
from mtl.base.formatting import one_line
from mtl.reporting.tables import as_cell

_END = "/* complete */"
_SNIPPET = "window.vegaEmbed = vegaEmbed;"


@lru_cache(maxsize=1)
def charts_script() -> str:
    """Return the script; it sets ``window.vegaEmbed``."""
    path = cache_root() / "pages" / f"vega-{version('vl-convert-python')}.js"
    try:
        script = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        script = ""
    if not script.endswith(_END):
        script = _bundle()
        with suppress(OSError):  # kept only to be quicker the next time
            write_text_atomically(path, script)
    return script


def _bundle() -> str:
    import vl_convert  # its engine takes a while to start: only when it is needed

    script: str = vl_convert.javascript_bundle(_SNIPPET)
    # No script of a page may hold these, also not in its strings.
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--") + "\n" + _END


# In a script "</script>" and "<!--" end or change the parser's state, whatever JSON says; U+2028 and U+2029 were line
# ends within JavaScript strings until ES2019.
_IN_SCRIPT = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


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


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart, which the page's script draws."""

    identity: str  # the id of its element
    title: str  # what it shows; its caption and its name for screen readers
    summary: str  # what a reader should see in it: it stands below, and for those who see nothing
    spec: Mapping[str, Any]  # Vega-Lite, without size and colours of the frame


@dataclass(frozen=True, slots=True)
class Matrix:
    """A confusion matrix."""

    caption: str
    columns: Sequence[str]  # the predicted classes, in the order of the true ones; others may follow
    rows: Mapping[str, Sequence[int]]  # the counts of each true class, one for each column
    dense: bool = False  # whether to save room: upright headings, and empty cells in place of zeros


_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:s|min|h|%|±)(?!\w))|(?<=\bp) (?==)|(?<==) (?=\d)|(?<=±) ")


def _prose(sentence: str) -> Markup:
    """Return a sentence in which no line ends between a number and its unit or sign."""
    return escape(_BEFORE_UNIT.sub("\xa0", one_line(sentence)))


def _shown(value: object) -> object:
    """Return any value that is not markup in one line, control characters as U+FFFD; it is escaped thereafter."""
    return value if isinstance(value, Markup) else one_line(str(value))


environment = Environment(
    loader=PackageLoader("mtl.reporting"),
    autoescape=True,
    finalize=_shown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
environment.filters |= {"as_cell": as_cell, "prose": _prose}


def render(template: str, title: str, charts: Sequence[Chart], **values: object) -> str:
    """Return a whole page from a file in `templates`, which extends ``page.html``, and the values that it shows."""
    scripts = [charts_script(), _resource("page.js")] if charts else [_resource("page.js")]
    return environment.get_template(template).render(
        title=title,
        policy=_policy(scripts),
        style=_resource("style.css"),
        scripts=scripts,
        specs=script_json({chart.identity: chart.spec for chart in charts}),
        **values,
    )


def _policy(scripts: Sequence[str]) -> str:
    """Return a policy that lets exactly these scripts run and nothing be fetched or sent.

    Styles may stand in attributes: Vega sets them on its marks, and without a network they can carry nothing away.
    """
    digests = [base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode() for script in scripts]
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _resource(name: str) -> str:
    return (files("mtl.reporting") / name).read_text(encoding="utf-8")
