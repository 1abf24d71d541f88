"""The corpus that ships with the package keeps what its data card promises."""

from __future__ import annotations

import csv
import re
import tomllib
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

import mtl
from mtl.data.tasks import SPLITS, load_tasks
from mtl.training.inputs import task_specs
from tests.support.configs import compose_config

FOLDER = Path(mtl.__file__).parent / "data" / "bundled" / "reviews"
ROWS = {"classification": 600, "sentiment": 400}
"""The least number of rows of each task."""
RARE = ("Technical Issues", "Purchase or Value Concerns")


def rows(task: str, split: str) -> list[tuple[str, str]]:
    with (FOLDER / task / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file)]


EVERY_TEXT = [text for task in ROWS for split in SPLITS for text, _ in rows(task, split)]


@pytest.mark.parametrize("task", ROWS)
def test_there_are_enough_rows(task: str) -> None:
    assert sum(len(rows(task, split)) for split in SPLITS) >= ROWS[task]


@pytest.mark.parametrize("label", RARE)
def test_a_rare_label_is_rare_in_training_and_readable_in_test(label: str) -> None:
    train, test = ([found for _, found in rows("classification", split)] for split in ("train", "test"))
    assert train.count(label) <= 0.1 * len(train)
    assert test.count(label) >= 25


def test_texts_have_3_to_60_words() -> None:
    assert {len(text.split()) for text in EVERY_TEXT} <= set(range(3, 61))


def test_no_two_rows_share_more_than_six_words_in_ten_of_the_shorter_one() -> None:
    words = [frozenset(re.findall(r"[^\W_]+", text.lower())) for text in EVERY_TEXT]
    alike = [
        (EVERY_TEXT[one], EVERY_TEXT[other])
        for one, other in combinations(range(len(words)), 2)
        if len(words[one] & words[other]) > 0.6 * min(len(words[one]), len(words[other]))
    ]
    assert alike == []


def test_no_text_stands_twice() -> None:
    folded = Counter(" ".join(text.casefold().split()) for text in EVERY_TEXT)
    assert [text for text, count in folded.items() if count > 1] == []


def test_the_card_counts_the_rows() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "**Licence.** CC0 1.0" in card
    for task in ROWS:
        counts = {split: Counter(label for _, label in rows(task, split)) for split in SPLITS}
        for label in counts["train"]:
            shown = f"{label} (rare)" if label in RARE else label
            assert f"| {shown} | {' | '.join(str(counts[split][label]) for split in SPLITS)} |" in card


def test_it_loads_without_a_warning() -> None:
    config = compose_config(["data=reviews"])
    tasks = load_tasks(task_specs(config.data), config.seed)
    assert {name: list(task.labels.names) for name, task in tasks.items()} == {
        "classification": ["Positive Sentiment", "Negative Sentiment", *RARE],
        "sentiment": ["negative", "positive"],
    }
    assert {name: task.warnings for name, task in tasks.items()} == {"classification": [], "sentiment": []}


def test_the_package_carries_it() -> None:
    settings = tomllib.loads((Path(mtl.__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["mtl.data.bundled"]
    assert {f"**/*{path.suffix}" for path in FOLDER.rglob("*") if path.is_file()} <= set(patterns)
