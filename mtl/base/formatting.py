"""Format figures and data texts for people, the same in the terminal's tables and in Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import TypeGuard

NOTHING = "–"  # where there is no figure
_LAYER = re.compile(r"(.*\.)(\d+)")
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a\u202b\u202d\u202e\u2066-\u2068]")
"""Control characters, lone surrogates, and what overrides the direction of the text after it."""


def score(value: float | None) -> str:
    """Return a metric with three decimals."""
    return f"{value:.3f}" if _known(value) else NOTHING


def change(before: float, after: float) -> str:
    """Return a metric before and after a change; once if both read the same."""
    return score(after) if score(before) == score(after) else f"{score(before)} → {score(after)}"


def count(value: float | None) -> str:
    """Return a whole number with thousands separators."""
    return f"{value:,.0f}" if _known(value) else NOTHING


def rate(value: float | None) -> str:
    """Return a learning rate or a weight decay with up to three significant digits."""
    return f"{value:.3g}" if _known(value) else NOTHING


def share(part: float, whole: float) -> str:
    """Return ``part`` of ``whole`` in percent with one decimal, ``<0.1 %`` for what would round to 0."""
    if not whole:
        return NOTHING
    percent = 100 * part / whole
    return "<0.1 %" if 0 < percent < 0.05 else f"{percent:.1f} %"


def duration(seconds: float | None) -> str:
    """Return a time span in the two units that matter: ``4.2 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if not _known(seconds):
        return NOTHING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def size(byte_count: float | None) -> str:
    """Return an amount of memory in binary units: ``512 B``, ``3.4 GiB``."""
    if not _known(byte_count):
        return NOTHING
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    power = min(int(math.log2(max(byte_count, 1)) / 10), len(units) - 1)
    return f"{byte_count / 1024**power:,.{1 if power else 0}f} {units[power]}"


def one_line(text: str) -> str:
    """Return the text in one line: runs of white space as one space, control characters as U+FFFD.

    They could move the cursor or change colours in a terminal, and reorder the text around them.
    """
    return _HIDDEN.sub("\ufffd", " ".join(text.split()))


def shortened(text: str, most: int) -> str:
    """Return the text in one line of at most ``most`` characters, cut at a space if one is near, with an ellipsis."""
    text = one_line(text)
    if len(text) <= most:
        return text
    cut = text[: most - 1]
    space = cut.rfind(" ")
    return (cut[:space] if space > most // 2 else cut).rstrip() + "…"


def told_apart(names: Sequence[str], most: int) -> dict[str, str]:
    """Return each of different names `shortened` so that they still differ, cut where those that begin alike agree.

    A shortened name has at most ``most`` characters, and a few more if names differ in white space alone.
    """
    short = {name: shortened(name, most) for name in names}
    alike: dict[str, list[str]] = {}
    for name, cut in short.items():
        alike.setdefault(cut, []).append(name)
    for group in alike.values():
        if len({one_line(name) for name in group}) > 1:
            short |= _cut_in_the_middle(group, most)
    taken: dict[str, int] = {}
    for name, cut in short.items():
        taken[cut] = taken.get(cut, 0) + 1
        if taken[cut] > 1:
            short[name] = f"{cut} ({taken[cut]})"
    return short


def _cut_in_the_middle(names: Sequence[str], most: int) -> dict[str, str]:
    """Return names that begin alike without the end of that beginning, so that their differences are shown."""
    lines = {name: one_line(name) for name in names}
    letters = enumerate(zip(*lines.values(), strict=False))
    agreed = next((at for at, row in letters if len(set(row)) > 1), min(map(len, lines.values())))
    head = most // 3
    word = lines[names[0]].rfind(" ", 0, agreed) + 1
    start = word if head <= word and agreed - word < head else max(head, agreed)
    start = max(head, min(start, max(map(len, lines.values())) - (most - head - 1)))
    short = {name: f"{line[:head].rstrip()}…{shortened(line[start:], most - head - 1)}" for name, line in lines.items()}
    alike: dict[str, list[str]] = {}
    for name, cut in short.items():
        alike.setdefault(cut, []).append(name)
    for group in alike.values():
        if 1 < len(group) < len(names):
            short |= _cut_in_the_middle(group, most)
    return short


def layer_spans(layers: Iterable[str]) -> list[str]:
    """Return layer names with runs of consecutive numbers as one: ``["embeddings", "layer.0–5"]``."""
    runs: list[list[str]] = []
    for layer in layers:
        if runs and _follows(runs[-1][-1], layer):
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return [run[0] if len(run) == 1 else f"{run[0]}–{run[-1].rpartition('.')[2]}" for run in runs]


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _follows(before: str, layer: str) -> bool:
    first, second = _LAYER.fullmatch(before), _LAYER.fullmatch(layer)
    return bool(first and second and first[1] == second[1] and int(second[2]) == int(first[2]) + 1)
