"""The frame of a page: head with a strict security policy, sections, charts that the page's script draws."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from mtl.reporting.library import charts_script
from mtl.reporting.safe import script_json, text

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
