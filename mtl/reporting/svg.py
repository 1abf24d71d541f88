"""Charts as SVG files, rendered from their Vega-Lite specifications: the same bytes for the same values."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from mtl.base.files import write_text_atomically
from mtl.reporting.page import Chart, script_json

_TEXT, _SOFT, _LINE = "#1b2329", "#55626d", "#d4dbe1"  # as in style.css
_THEME: Final[dict[str, Any]] = {
    "background": "white",
    "padding": 12,
    "font": "Liberation Sans, Arial, sans-serif",  # vl-convert brings the first one: every machine measures the same
    "axis": {
        **{"labelColor": _TEXT, "titleColor": _SOFT, "gridColor": _LINE, "domainColor": _LINE, "tickColor": _LINE},
        **{"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 340},
    },
    "legend": {
        **{"orient": "bottom", "columns": 3, "labelColor": _TEXT, "labelFontSize": 12, "titleColor": _SOFT},
        **{"labelLimit": 400, "symbolOpacity": 1, "titleFontWeight": "normal"},
    },
    "title": {
        **{"anchor": "start", "frame": "group", "color": _TEXT, "fontSize": 14, "offset": 12},
        **{"subtitleColor": _SOFT, "subtitleFontSize": 12, "subtitlePadding": 6},
    },
    "view": {"stroke": None},
    "text": {"color": _TEXT, "fontSize": 12},
    "rule": {"color": _SOFT},
    "style": {"plain": {"fill": _TEXT}},
}
_CHARACTER = 6.2  # pixels of a letter of a subtitle
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # even escaped


def write_svg(path: str | Path, charts: Sequence[Chart], *, columns: int = 1, width: int = 640) -> None:
    """Write charts into one SVG file, ``columns`` in a row, whole or not at all.

    ``width`` are the pixels of a chart without its axes, unless its specification has a width of its own.
    """
    import vl_convert  # takes a second to start: only when it is needed

    panels = [_panel(chart, width) for chart in charts]
    spec = panels[0] if len(panels) == 1 else {"concat": panels, "columns": columns, "resolve": _OWN_SCALES}
    written = _NOT_IN_XML.sub("\ufffd", script_json(spec))
    write_text_atomically(path, vl_convert.vegalite_to_svg(written, config=_THEME, allowed_base_urls=[]) + "\n")


_OWN_SCALES = {"scale": {"color": "independent", "shape": "independent"}}


def _panel(chart: Chart, width: int) -> dict[str, Any]:
    width = chart.spec.get("width", width)
    subtitle = textwrap.wrap(chart.summary, max(30, round(width / _CHARACTER)))
    title = {"text": textwrap.wrap(chart.title, max(20, round(width / 8)), max_lines=2, placeholder="…")}
    return {"width": width, **chart.spec, "title": {**title, "subtitle": subtitle}}
