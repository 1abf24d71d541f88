"""A task's data: its files read, its labels settled, its splits made, and what looks wrong about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mtl.data.examples import Examples, read_examples
from mtl.data.labels import LabelSet
from mtl.data.problems import plural
from mtl.data.splits import stratified_split
from mtl.data.task_checks import label_problems, task_warnings
from mtl.errors import DataError, Problem

if TYPE_CHECKING:
    import os

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """Where the data of a task comes from.

    Attributes:
        name: The task (``sentiment``).
        train: File with the training rows.
        val: File with the validation rows; without it they are split off from the training file.
        test: File with the test rows; without it they are split off from the training file.
        path: In place of ``train``: one file to be split.
        text_column: The column with the sentences, the same in each file.
        label_column: The column with the labels, the same in each file.
        labels: The labels in the order of their class ids; ``None`` for those of the training rows, sorted.
        fractions: The shares of train, val and test where a file is split; those of given files fall away and the
            others keep their proportions. A share of 0 for val or test leaves it empty.
        slices: Further columns of the files, by whose values the figures are divided.
        train_share: The share of the training rows that is used, above 0: the same of each label, one text of it at
            least, drawn by the seed. Smaller shares are parts of larger ones.
        most_rows: By split the rows that are used, a sample drawn by the seed, of training stratified by label with one
            text of each at least; all of a split that is not named.
    """

    name: str
    train: str | os.PathLike[str] | None = None
    val: str | os.PathLike[str] | None = None
    test: str | os.PathLike[str] | None = None
    path: str | os.PathLike[str] | None = None
    text_column: str = "text"
    label_column: str = "label"
    labels: tuple[str, ...] | None = None
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    slices: tuple[str, ...] = ()
    train_share: float = 1.0
    most_rows: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.train is None) == (self.path is None):
            given = "neither" if self.train is None else "both"
            raise ValueError(f"task {self.name}: exactly one of train and path is needed, {given} given")
        sound = len(self.fractions) == len(SPLITS) and self.fractions[0] > 0 and min(self.fractions) >= 0
        if not sound or not math.isclose(sum(self.fractions), 1.0, abs_tol=1e-6):
            expected = "three, none below 0, the first above 0, their sum 1"
            raise ValueError(f"task {self.name}: fractions {self.fractions}; expected {expected}")

    @property
    def config_key(self) -> str:
        """Where this task's data is configured, for error messages."""
        return f"data.tasks.{self.name}"

    @property
    def files(self) -> dict[str, str | os.PathLike[str]]:
        """The given files by split; a file to be split counts as ``train``."""
        files = {"train": self.path if self.train is None else self.train, "val": self.val, "test": self.test}
        return {split: file for split, file in files.items() if file is not None}


@dataclass(frozen=True, slots=True)
class TaskData:
    """The data of one task, ready to be tokenised.

    Attributes:
        name: The task.
        labels: Its labels; the place of a label is its class id.
        train: The rows to train on; each label has one at least.
        val: The rows to choose by; may be empty if their share is 0.
        test: The rows to report on; may be empty if their share is 0.
        warnings: What is allowed but probably not meant, a text each, such as rows that train and test share.
    """

    name: str
    labels: LabelSet
    train: Examples
    val: Examples
    test: Examples
    warnings: list[str] = field(default_factory=list)

    @property
    def splits(self) -> dict[str, Examples]:
        """The three splits by name."""
        return {"train": self.train, "val": self.val, "test": self.test}


def load_tasks(
    specs: Sequence[TaskSpec], seed: int, cache_dir: str | os.PathLike[str] | None = None
) -> dict[str, TaskData]:
    """Load the data of all tasks.

    Args:
        specs: Where the data of each task comes from.
        seed: Decides which rows go to which split where a file is split.
        cache_dir: Where the caches of the read files lie; see `mtl.data.examples.read_examples`.

    Returns:
        The data by task name, in the order of ``specs``.

    Raises:
        DataError: Some data cannot be used; it names the problems of all tasks.
        ValueError: Two tasks have the same name.
    """
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        raise ValueError(f"task names must differ: {names}")
    tasks: dict[str, TaskData] = {}
    problems: list[Problem] = []
    for spec in specs:
        try:
            tasks[spec.name] = load_task(spec, seed, cache_dir)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(dict.fromkeys(problems))
    return tasks


def load_task(spec: TaskSpec, seed: int, cache_dir: str | os.PathLike[str] | None = None) -> TaskData:
    """Load the data of one task: read its files, check them against each other, and make the splits that are missing.

    Args:
        spec: Where the data comes from.
        seed: Decides which rows go to which split where a file is split.
        cache_dir: Where the caches of the read files lie; see `mtl.data.examples.read_examples`.

    Raises:
        DataError: Some data cannot be used; it names all problems of all files.
    """
    given = _read(spec, cache_dir)
    problems = label_problems(given, spec.labels, spec.config_key)
    if problems:
        raise DataError(problems)
    labels = LabelSet.found_in(given["train"]) if spec.labels is None else LabelSet(spec.labels)
    splits = _completed(given, labels, spec, seed)
    splits["train"] = _part(splits["train"], labels, spec.train_share, seed)
    splits = {split: _sample(rows, labels, spec.most_rows.get(split), split, seed) for split, rows in splits.items()}
    return TaskData(spec.name, labels, **splits, warnings=task_warnings(spec.name, splits, labels))


def _read(spec: TaskSpec, cache_dir: str | os.PathLike[str] | None) -> dict[str, Examples]:
    examples: dict[str, Examples] = {}
    problems: list[Problem] = []
    for split, file in spec.files.items():
        try:
            examples[split] = read_examples(
                file,
                spec.text_column,
                spec.label_column,
                extra=spec.slices,
                config_key=spec.config_key,
                cache_dir=cache_dir,
            )
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(dict.fromkeys(problems))
    return examples


def _completed(given: Mapping[str, Examples], labels: LabelSet, spec: TaskSpec, seed: int) -> dict[str, Examples]:
    """Return all three splits, those without a file split off from the training rows."""
    shares = dict(zip(SPLITS, spec.fractions, strict=True))
    missing = [split for split in SPLITS if split not in given and shares[split] > 0]
    nothing = given["train"].select(np.empty(0, dtype=np.int64))
    splits = {split: given.get(split, nothing) for split in SPLITS}
    if missing:
        wanted = ["train", *missing]
        total = sum(shares[split] for split in wanted)
        source = given["train"]
        fractions = [shares[split] / total for split in wanted]
        parts = stratified_split(source.keys, labels.ids(source), fractions, seed)
        if not all(map(len, parts)):
            raise DataError(_too_few_rows(source, labels, missing, spec))
        splits |= {split: source.select(part) for split, part in zip(wanted, parts, strict=True)}
    return splits


def _part(rows: Examples, labels: LabelSet, share: float, seed: int) -> Examples:
    """Return a share of the training rows, stratified by label."""
    if share >= 1:
        return rows
    kept, _ = stratified_split(rows.keys, labels.ids(rows), [share, 1 - share], seed)
    return rows.select(kept)


def _sample(rows: Examples, labels: LabelSet, most: int | None, split: str, seed: int) -> Examples:
    """Return so many rows of a split, drawn at random; of training rows some of each label."""
    if most is None or len(rows) <= most:
        return rows
    if split == "train":
        return _part(rows, labels, most / len(rows), seed)
    drawn = np.random.default_rng(seed).choice(len(rows), most, replace=False)
    return rows.select(np.sort(drawn).astype(np.int64))


def _too_few_rows(source: Examples, labels: LabelSet, missing: Sequence[str], spec: TaskSpec) -> Problem:
    texts = len(np.unique(source.keys))
    found = f"{plural(len(source), 'row')} with {plural(texts, 'distinct text')} for {len(labels)} labels"
    least = len(labels) + len(missing)
    expected = f"at least {least} distinct texts: one per label to train on, and one each for {' and '.join(missing)}"
    files = " ".join(f"{spec.config_key}.{split}=<file>" for split in missing)
    return Problem(str(source.path), found, expected, f"add rows, or give files of their own: {files}")
