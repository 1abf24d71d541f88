"""Strategies for broken inputs: bytes with damage, JSON with other values at some places, texts of every kind."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

_ODD_NUMBERS = [0, -1, 1, 2**31, 2**63, 2**64, 10**400, -0.5, 0.5, 1e308, float("nan"), float("inf"), float("-inf")]
ODD_TEXTS = [
    "",
    " ",
    "\0",
    "\ud800",
    "a\ud83d",
    "😀",
    "مرحبا بالعالم",
    "\u202eabc",
    "=1+1",
    "<script>alert(1)</script>",
    "nan",
    "../../x",
    "/dev/null",
    "${seed}",
    "???",
    "a" * 5000,
]
_PIECES = [
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b'"',
    b",",
    b"\n",
    b"\r",
    b"\t",
    b"{",
    b"[",
    b"]",
    b"}",
    b"PAR1",
    b"\x80",
]

_HOSTILE = [
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"1" * 5000,
    b"&a [*a]",
    b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
    b"2001-01-01: x",
    b"? [a, b]\n: c",
    b"a: !!timestamp x",
    b"a: !!bool x",
    b"a: !!python/object/apply:os.system [true]",
    b"a: 2001-99-99",
    b"\n" * 1000,
    b'"' * 999,
]
"""Whole contents that are known to hurt readers of JSON, YAML and CSV."""

odd_scalars = (
    st.none() | st.booleans() | st.sampled_from(_ODD_NUMBERS) | st.sampled_from(ODD_TEXTS) | st.text(max_size=8)
)
values = st.recursive(
    odd_scalars | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
"""Anything that JSON can hold, and what Python's reader of it takes besides (NaN, lone surrogates)."""

any_text = st.text(st.characters(), max_size=60)  # lone surrogates among them
sentences = st.one_of(
    any_text,
    st.sampled_from(ODD_TEXTS),
    st.builds(lambda piece, count: piece * count, st.text(min_size=1, max_size=3), st.sampled_from([1, 600, 20_000])),
    st.text(st.characters(categories=["Cc", "Cf", "Cs", "Co", "Zs", "Mn"]), max_size=20),
)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Return the bytes with one to three faults, or other bytes altogether."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200) | st.sampled_from(_HOSTILE))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        stop = min(len(content), at + draw(st.sampled_from([1, 2, 8, 64])))
        piece = draw(st.sampled_from(_PIECES) | st.binary(min_size=1, max_size=8))
        content = draw(
            st.sampled_from(
                [
                    content[:at],
                    content[:at] + content[stop:],
                    content[:stop] + content[at:],
                    content[:at] + piece + content[at:],
                    content[:at] + piece + content[at + len(piece) :],
                    content[:at] + bytes([content[at] ^ 1 << draw(st.integers(0, 7))]) + content[at + 1 :]
                    if content
                    else piece,
                ]
            )
        )
    return content


@st.composite
def altered(draw: st.DrawFn, original: Any) -> Any:
    """Return a copy of nested plain values with one to three places replaced, removed, renamed or added to."""
    found = deepcopy(original)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        places = list(_places(found))
        if not places:
            return draw(values)
        container, key = places[draw(st.integers(0, len(places) - 1))]
        action = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "rename"]))
        if action == "replace":
            container[key] = draw(values | st.just(draw(st.sampled_from(places))[0]).map(deepcopy))
        elif action == "remove":
            del container[key]
        elif isinstance(container, dict):
            name = draw(st.text(max_size=6) | st.sampled_from(ODD_TEXTS))
            container[name] = container.pop(key) if action == "rename" else draw(values)
        else:
            container.insert(key, draw(values))
    return found


def _places(values: Any) -> Any:
    """Yield each container inside with each of its keys."""
    keys = list(values) if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
    for key in keys:
        yield values, key
        yield from _places(values[key])
