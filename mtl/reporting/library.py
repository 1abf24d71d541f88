"""The charts' library, Vega-Lite with Vega and Vega-Embed, as one script to be put into a page.

It comes out of the package ``vl-convert-python`` (BSD-3-Clause), which carries the three and bundles them without a
network: 0.9 MB, a fifth of Plotly's, drawn as SVG with an ARIA label on every mark, and with an interpreter in place of
``eval``, so that a page can forbid it. Bundling takes seconds, so the script is kept in the cache folder.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version

from mtl.base.files import cache_root, write_text_atomically

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
