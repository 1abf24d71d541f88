"""How figures and texts are written for a person."""

from __future__ import annotations

import math
import sys
import unicodedata

import pytest

from mtl.base import formatting


@pytest.mark.parametrize(
    ("value", "text"), [(0.81249, "0.812"), (1, "1.000"), (0, "0.000"), (None, "–"), (math.nan, "–"), (math.inf, "–")]
)
def test_score(value: float | None, text: str) -> None:
    assert formatting.score(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (1234567, "1,234,567"), (1234.6, "1,235"), (None, "–")])
def test_count(value: float | None, text: str) -> None:
    assert formatting.count(value) == text


@pytest.mark.parametrize(("value", "text"), [(2e-5, "2e-05"), (1.6234e-5, "1.62e-05"), (0.001, "0.001"), (0, "0")])
def test_rate(value: float | None, text: str) -> None:
    assert formatting.rate(value) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"), [(1, 8, "12.5 %"), (0, 8, "0.0 %"), (1, 10_000, "<0.1 %"), (0, 0, "–")]
)
def test_share(part: int, whole: int, text: str) -> None:
    assert formatting.share(part, whole) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (4.24, "4.2 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 0 min"),
        (7512, "2 h 5 min"),
        (None, "–"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize(
    ("byte_count", "text"),
    [(0, "0 B"), (512, "512 B"), (1024, "1.0 KiB"), (3_650_722_201, "3.4 GiB"), (2**50, "1,024.0 TiB"), (None, "–")],
)
def test_size(byte_count: int | None, text: str) -> None:
    assert formatting.size(byte_count) == text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (" a \r\n\t b\u2028c ", "a b c"),
        ("red \x1b[31malert\x07", "red \ufffd[31malert\ufffd"),
        ("\u202egnp.exe", "\ufffdgnp.exe"),
        ("שלום 👩\u200d💻", "שלום 👩\u200d💻"),
    ],
)
def test_one_line(text: str, line: str) -> None:
    assert formatting.one_line(text) == line


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("ten chars!", "ten chars!"),
        ("eleven char", "eleven…"),
        ("a verylongword", "a verylon…"),
        ("verylongword", "verylongw…"),
    ],
)
def test_shortened(text: str, short: str) -> None:
    assert formatting.shortened(text, most=10) == short
    assert len(short) <= 10


@pytest.mark.parametrize(
    ("layers", "spans"),
    [
        ([], []),
        (["embeddings", "layer.0", "layer.1", "layer.2"], ["embeddings", "layer.0–2"]),
        (["layer.9", "layer.10", "heads.a", "heads.b"], ["layer.9–10", "heads.a", "heads.b"]),
        (["layer.0", "layer.2", "block.3"], ["layer.0", "layer.2", "block.3"]),
    ],
)
def test_layer_spans(layers: list[str], spans: list[str]) -> None:
    assert formatting.layer_spans(layers) == spans


def test_no_control_character_passes_as_printable() -> None:
    controls = [each for each in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(each) in {"Cc", "Cs"}]
    assert len(controls) > 2000
    controls += "\u202a\u202b\u202d\u202e\u2066\u2067\u2068"  # which change the direction of a text
    assert {formatting.one_line(f"a{each}b") for each in controls if not each.isspace()} == {"a\ufffdb"}


LONG = "account management and billing / card payment"


def test_names_that_begin_alike_are_cut_where_they_agree() -> None:
    ends = ("not recognised", "declined", "fee charged", "fee charged twice")
    short = formatting.told_apart([f"{LONG} {end}" for end in ends] + ["refund"], 28)
    assert list(short.values()) == [*(f"account m…{end}" for end in ends), "refund"]


def test_numbers_at_the_end_of_long_names_stay() -> None:
    short = formatting.told_apart([f"transfer_into_account_pending_{at:03d}" for at in range(150)], 24)
    assert [each[-3:] for each in short.values()] == [f"{at:03d}" for at in range(150)]
    assert max(map(len, short.values())) <= 24


def test_names_that_differ_in_the_middle_and_in_white_space_stay_different() -> None:
    names = [f"{LONG} {middle} {LONG} {end}" for middle in ("a", "b") for end in ("x", "y")] + ["a b", "a  b"]
    assert len(set(formatting.told_apart(names, 20).values())) == len(names)
