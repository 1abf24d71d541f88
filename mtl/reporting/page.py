"""HTML pages that work offline: the frame with a strict security policy, sections, charts, and sortable tables.

The charts' library, Vega-Lite with Vega and Vega-Embed, comes out of the package ``vl-convert-python`` (BSD-3-Clause),
which bundles them without a network: 0.9 MB, a fifth of Plotly's, drawn as SVG with an ARIA label on every mark, and
with an interpreter in place of ``eval``, so that a page can forbid it. Bundling takes seconds, so it is cached.
"""

from __future__ import annotations

import base64
import hashlib
import html
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

from mtl.base.files import cache_root, write_text_atomically
from mtl.base.formatting import one_line
from mtl.reporting.tables import Cell, Table, as_cell

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


_BEFORE_UNIT = re.compile(
    r"(?<=\d) (?=(?:s|min|h|%|±)(?!\w))|(?<=\bp) (?==)|(?<==) (?=\d)|(?<=±) "
)  # no line ends there


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart.

    Attributes:
        identity: The id of its element.
        title: What it shows; its caption and its name for screen readers.
        summary: What a reader should see in it, in a sentence or two: it stands below, and for those who see nothing.
        spec: Vega-Lite, without size and colours of the frame.
    """

    identity: str
    title: str
    summary: str
    spec: Mapping[str, Any]

    def render(self) -> str:
        """Return the figure, which is empty until the page's script draws it."""
        return (
            f'<figure class="chart"><figcaption>{text(self.title)}</figcaption>'
            f'<div class="canvas" id="{text(self.identity)}" role="img" aria-label="{text(self.title)}. '
            f'{text(self.summary)}"></div><p class="note">{text(self.summary)}</p></figure>'
        )


def section(identity: str, title: str, *blocks: str) -> str:
    """Return a section with its heading; ``blocks`` are finished HTML."""
    inside = "\n".join(block for block in blocks if block)
    if not inside:
        return ""
    return f'<section aria-labelledby="{identity}"><h2 id="{identity}">{text(title)}</h2>\n{inside}\n</section>'


def paragraph(*sentences: str, kind: str = "") -> str:
    """Return sentences as a paragraph, escaped."""
    opening = f'<p class="{kind}">' if kind else "<p>"
    return f"{opening}{_BEFORE_UNIT.sub(chr(0xA0), text(' '.join(sentences)))}</p>"


def folded(summary: str, *blocks: str, opened: bool = False) -> str:
    """Return blocks of finished HTML that a click on the summary shows."""
    inside = "\n".join(blocks)
    return f"<details{' open' if opened else ''}><summary>{text(summary)}</summary>\n{inside}\n</details>"


def render(title: str, lead: str, sections: Sequence[str], charts: Sequence[Chart]) -> str:
    """Return a whole page.

    Args:
        title: Its heading.
        lead: What stands below the heading: finished HTML.
        sections: Finished HTML.
        charts: The charts in the sections.
    """
    style = _resource("style.css")
    scripts = [charts_script(), _resource("page.js")] if charts else [_resource("page.js")]
    specs = script_json({chart.identity: chart.spec for chart in charts})
    body = "\n".join(each for each in sections if each)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{text(title)}</title>
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#main">To the content</a>
<header><h1>{text(title)}</h1>
{lead}</header>
<main id="main">
{body}
</main>
<script type="application/json" id="charts">{specs}</script>
{"".join(f"<script>{script}</script>{chr(10)}" for script in scripts)}</body>
</html>
"""


def _policy(scripts: Sequence[str]) -> str:
    """Return a policy that lets exactly these scripts run and nothing be fetched or sent.

    Styles may stand in attributes: Vega sets them on its marks, and without a network they can carry nothing away.
    """
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode()


def _resource(name: str) -> str:
    return (files("mtl.reporting") / name).read_text(encoding="utf-8")


_SHADES = 9  # classes shade-0 … shade-9 of the style sheet


def table(table: Table, search: str = "") -> str:
    """Return a sortable table that scrolls within its own frame; its footer stays below.

    Args:
        table: Its title and note are the caption, and its first column holds the headings of the rows.
        search: The label of a search box above it; none without.
    """
    head = "".join(
        f'<th scope="col" aria-sort="none"{_kind("figure" if at >= table.texts else "")}>'
        f'<button type="button">{text(name)}<span aria-hidden="true" class="arrow"></span></button></th>'
        for at, name in enumerate(table.columns)
    )
    body = "\n".join(_row(row, table.texts, table.styles.get(at, "")) for at, row in enumerate(table.rows))
    foot = "".join(_row(row, table.texts) for row in table.footer)
    box = (
        f'<p class="search"><label>{text(search)} <input type="search" autocomplete="off"></label> '
        f'<output aria-live="polite">{len(table.rows):,} rows</output></p>'
        if search
        else ""
    )
    caption = text(". ".join(filter(None, (table.title, *table.note.splitlines()))))
    return (
        f'<div class="sortable">{box}<div class="scroll" role="region" tabindex="0" aria-label="{caption}">'
        f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
        f"{foot and f'<tfoot>{foot}</tfoot>'}</table></div></div>"
    )


def _row(row: Sequence[Cell | str], texts: int, style: str = "") -> str:
    cells = []
    for at, cell in enumerate(map(as_cell, row)):
        value = "" if cell.value is None else f' data-value="{cell.value!r}"'
        kind = _kind("figure" if at >= texts else "", cell.kind)
        tag = 'th scope="row"' if at == 0 else "td"
        cells.append(f"<{tag}{kind}{value}>{text(cell.line)}</{tag.partition(' ')[0]}>")
    return f"<tr{_kind(style)}>{''.join(cells)}</tr>"


def matrix(
    caption: str, labels: Sequence[str], counts: Sequence[Sequence[float]], columns: Sequence[str] | None = None
) -> str:
    """Return a confusion matrix: counts, shaded by their share of the true class.

    Args:
        caption: Whose.
        labels: The classes.
        counts: A row for each true class, in it a number for each column.
        columns: The predicted classes, if they are others than ``labels``; then the table is a dense one, with upright
            headings and empty cells in place of zeros.
    """
    dense = columns is not None
    head = "".join(f'<th scope="col"><span>{text(label)}</span></th>' for label in columns or labels)
    rows = []
    for at, (label, row) in enumerate(zip(labels, counts, strict=True)):
        total = sum(row) or 1
        cells = "".join(
            f'<td class="shade-{round(_SHADES * count / total)}{" right" if column == at else ""}">'
            f"{_count(count, total, dense)}</td>"
            for column, count in enumerate(row)
        )
        rows.append(f'<tr><th scope="row">{text(label)}</th>{cells}</tr>')
    corner = '<td class="corner">true ↓ predicted →</td>'
    return (
        f'<div class="scroll matrix{" dense" if dense else ""}" role="region" tabindex="0" '
        f'aria-label="{text(caption)}"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{corner}{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
        "</table></div>"
    )


def _count(count: float, total: float, dense: bool) -> str:
    if dense:
        return f"{count:g}" if count else ""
    return f"{count:g}{_percent(count, total)}"


def _percent(count: float, total: float) -> str:
    return f"<small> {100 * count / total:.0f} %</small>" if count else ""


def _kind(*names: str) -> str:
    classes = " ".join(filter(None, names))
    return f' class="{classes}"' if classes else ""
