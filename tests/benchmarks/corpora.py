"""Corpora: real tweets and reviews from the folder `MTL_TEST_DATA` where it is there, else the bundled reviews."""

from __future__ import annotations

import csv
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ("train", "val", "test")
_BUNDLED = ROOT / "mtl" / "data" / "bundled" / "reviews"
_OPENINGS = ("", "To be fair, ", "Honestly: ", "Once more. ", "My sister says: ", "After two weeks, ", "As expected, ")

Rows = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Task:
    """The files of one task, with the columns ``text`` and ``label``."""

    name: str
    files: dict[str, Path]

    def rows(self, split: str) -> Rows:
        """Return the texts and labels of a split."""
        return _read(self.files[split])

    def texts(self) -> list[str]:
        """Return the texts of all splits."""
        return [text for split in SPLITS for text, _ in self.rows(split)]


def tasks() -> list[Task]:
    """Return a task of many classes and a binary one."""
    named = os.environ.get("MTL_TEST_DATA")
    folder = Path(named or _BUNDLED)
    if named and (folder / "airline_train.csv").is_file():
        names = {"classification": "airline", "sentiment": "uci"}
        return [Task(name, {s: folder / f"{stem}_{s}.csv" for s in SPLITS}) for name, stem in names.items()]
    return [Task(name, {s: _BUNDLED / name / f"{s}.csv" for s in SPLITS}) for name in ("classification", "sentiment")]


def cut(whole: Sequence[Task], share: float, folder: Path) -> list[Task]:
    """Write about ``share`` of the rows of every label (at least two of each) to ``folder`` and return the new tasks.

    Args:
        whole: The tasks.
        share: From 0 to 1; 1 returns the tasks as they are.
        folder: Where to write, for each task and split a file.
    """
    if share >= 1:
        return list(whole)
    small = []
    for task in whole:
        files = {split: folder / f"{task.name}_{split}.csv" for split in SPLITS}
        for split, path in files.items():
            _write(path, _stratified(task.rows(split), share))
        small.append(Task(task.name, files))
    return small


def sentences(count: int) -> list[str]:
    """Return ``count`` distinct sentences of natural length: those of the first task, with openings where too few."""
    texts = list(dict.fromkeys(tasks()[0].texts()))
    varied = (opening + text for opening in _OPENINGS for text in texts)
    return list(islice(dict.fromkeys(varied), count)) or texts


def overrides(chosen: Sequence[Task]) -> list[str]:
    """Return the arguments with which `python -m mtl.train` reads the tasks."""
    files = [f"++data.tasks.{task.name}.{split}='{path}'" for task in chosen for split, path in task.files.items()]
    return ["data=files", *files]


def _stratified(rows: Rows, share: float) -> Rows:
    of_label: dict[str, Rows] = defaultdict(list)
    for row in rows:
        of_label[row[1]].append(row)
    return [row for found in of_label.values() for row in found[: max(2, math.ceil(share * len(found)))]]


def _read(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file)]


def _write(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


def write_short_rows(path: Path, count: int) -> None:
    """Write ``count`` distinct rows of a few words each, with one of five labels."""
    words = ("good", "bad", "fast", "slow", "red", "blue", "new", "old", "cheap", "dear", "warm", "cold")
    labels = cycle(("alpha", "beta", "gamma", "delta", "epsilon"))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for number, label in zip(range(count), labels, strict=False):
            first, second = words[number % len(words)], words[number // len(words) % len(words)]
            writer.writerow((f"the {first} {second} thing number {number} works", label))
