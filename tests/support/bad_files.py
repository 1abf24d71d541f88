"""Data files with every fault that a user's files have."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_ROWS = "".join(
    f"It is {word} number {number}.,{label}\n"
    for number in range(20)
    for word, label in (("good", "positive"), ("bad", "negative"))
)
_JSON_LINES = b"""\
{"text": "Good.", "label": "positive"}
{"text": "Bad.", "label":
[1, 2]
{"text": "Fine."}
{"text": 3, "label": 0.5}
"""
_FILES: dict[str, str | bytes] = {
    "good.csv": f"text,label\n{_ROWS}",
    "typo.csv": f"text,lable\n{_ROWS}",
    "semicolon.csv": f"text,label\n{_ROWS}".replace(",", ";"),
    "empty_text.csv": f"text,label\n{_ROWS},positive\n  ,negative\nFine.,\n",
    "single.csv": "text,label\nGood.,positive\nFine.,positive\nNice.,positive\n",
    "neutral.csv": f"text,label\n{_ROWS}So so.,neutral\nMeh.,neutral\n",
    "few.csv": "text,label\nGood.,positive\nBad.,negative\n",
    "latin.csv": "text,label\nCafé.,positive\nBad.,negative\n".encode("latin-1"),
    "utf16.csv": f"text,label\n{_ROWS}".encode("utf-16"),
    "empty.csv": "",
    "header.csv": "text,label\n",
    "quote.csv": 'text,label\n"Good.,positive\nBad.,negative\n',
    "ragged.csv": "text,label\nGood, really,positive\nBad.\n",
    "twice.csv": "text,text,label\na,b,c\n",
    "bad.jsonl": _JSON_LINES,
    "bad.parquet": b"PAR1 but not really",
    "table.xlsx": b"PK",
    "suffixless": f"text,label\n{_ROWS}",
}


def write_bad_files(folder: Path) -> Path:
    """Write the files, and folders without anything in them: ``run``, and ``weights`` with a config only."""
    for name, content in _FILES.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "run").mkdir()
    (folder / "weights").mkdir()
    (folder / "weights" / "config.json").write_text("{}", encoding="utf-8")
    return folder
