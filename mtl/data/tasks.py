"""A task's data: its files read, its labels settled, its splits made, and warnings about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mtl.base.errors import DataError, Problem, listed
from mtl.data.examples import Examples, Missing, read_examples
from mtl.data.labels import LabelSet
from mtl.data.named_datasets import DatasetSpec, DatasetSplit, load_splits
from mtl.data.problems import plural
from mtl.data.splits import stratified_split
from mtl.data.table import IntArray, KeyArray
from mtl.data.task_checks import label_problems, shared_between_tasks, task_warnings

Source = Path | DatasetSplit
"""A data file, or a split of a data set."""
SPLITS = ("train", "val", "test")
_SPLIT_WITH = ".split_with"


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """Where the data of a task comes from: one of ``train``, ``path`` and ``dataset``."""

    name: str
    train: Path | None = None  # file with the training rows
    val: Path | None = None  # file with the validation rows; without it they are split off from the training file
    test: Path | None = None  # the same for the test rows
    path: Path | None = None  # in place of ``train``: one file to be split
    dataset: DatasetSpec | None = None  # in place of all files: a data set
    text_column: str = "text"  # the column with the sentences, the same in each file
    label_column: str = "label"  # the column with the labels, the same in each file
    # The labels in the order of their class ids; ``None`` for those of the training rows, sorted, or in the order of
    # the data set's classes
    labels: tuple[str, ...] | None = None
    # The shares of train, val and test where a file is split; those of given files fall away and the others keep their
    # proportions. A share of 0 for val or test leaves it empty.
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    slices: tuple[str, ...] = ()  # further columns of the files, by whose values the figures are divided
    # The share of the training rows that is used, above 0: the same of each label, one text of it at least, drawn by
    # the seed. Smaller shares are parts of larger ones.
    train_share: float = 1.0
    # What to do about a row without a label: ``skip`` leaves it out, ``error`` refuses its file
    missing: Missing = "skip"
    # The label columns of all tasks that are split off the same file. Each of these tasks computes one split of the
    # rows of all of them, so that no text is in train for one task and in test for another.
    split_with: tuple[str, ...] = ()
    # By split the rows that are used, a sample drawn by the seed, of training stratified by label with one text of each
    # at least; all of a split that is not named
    most_rows: Mapping[str, int] = field(default_factory=dict)

    @property
    def config_key(self) -> str:
        """Where this task's data is configured, for error messages."""
        return f"data.tasks.{self.name}"

    @property
    def files(self) -> dict[str, Path]:
        """The files by split; a file to be split counts as ``train``."""
        files = {"train": self.path if self.train is None else self.train, "val": self.val, "test": self.test}
        return {split: file for split, file in files.items() if file is not None}

    def key_of(self, split: str) -> str:
        """Return the setting that gives a split rows of its own."""
        return f"{self.config_key}.splits.{split}=<split>" if self.dataset else f"{self.config_key}.{split}=<file>"


@dataclass(frozen=True, slots=True)
class TaskData:
    """The data of one task, ready to be tokenised."""

    name: str
    labels: LabelSet  # its labels; the place of a label is its class id
    train: Examples  # the rows to train on; each label has one at least
    val: Examples  # the rows to choose by; may be empty if their share is 0
    test: Examples  # the rows to report on; may be empty if their share is 0
    # What is allowed but probably not meant, a text each, such as rows that train and test share
    warnings: list[str] = field(default_factory=list)

    @property
    def splits(self) -> dict[str, Examples]:
        """The three splits by name."""
        return {"train": self.train, "val": self.val, "test": self.test}


def load_tasks(specs: Sequence[TaskSpec], seed: int) -> dict[str, TaskData]:
    """Load the data of all tasks, by name in the order of ``specs``.

    The seed decides which rows go to which split where a file is split.

    Raises:
        DataError: Some data cannot be used; it names the problems of all tasks.
    """
    tasks: dict[str, TaskData] = {}
    problems: list[Problem] = []
    for spec in specs:
        try:
            tasks[spec.name] = load_task(spec, seed)
        except DataError as error:
            problems += error.problems
    if problems:  # a column that cannot be read is a problem of its own task first
        own = [problem for problem in problems if not problem.place.endswith(_SPLIT_WITH)]
        raise DataError(dict.fromkeys(own or problems))
    shared = shared_between_tasks({name: task.splits for name, task in tasks.items()})
    return {name: replace(task, warnings=[*task.warnings, *shared[name]]) for name, task in tasks.items()}


def load_task(spec: TaskSpec, seed: int) -> TaskData:
    """Load the data of one task: read its files, check them against each other, and make the splits that are missing.

    Raises:
        DataError: Some data cannot be used; it names all problems of all files.
    """
    sources, unused = _sources(spec)
    rows_of = _read(sources, spec)
    if problems := label_problems(rows_of, spec.labels, spec.config_key):
        raise DataError(problems)
    origin = sources["train"]
    classes = origin.classes(spec.label_column) if isinstance(origin, DatasetSplit) else ()
    labels = LabelSet.found_in(rows_of["train"], classes) if spec.labels is None else LabelSet(spec.labels)
    splits = _completed(rows_of, labels, spec, origin, seed)
    splits["train"] = _part(splits["train"], labels, spec.train_share, seed)
    notes = [*unused, *_notes(rows_of, splits, spec, labels, classes)]
    splits = {split: _sample(rows, labels, spec.most_rows.get(split), split, seed) for split, rows in splits.items()}
    prefixed = [f"{spec.name}: {note}" for note in notes]
    return TaskData(spec.name, labels, **splits, warnings=[*prefixed, *task_warnings(spec.name, splits, labels)])


def _notes(
    rows_of: Mapping[str, Examples],
    splits: Mapping[str, Examples],
    spec: TaskSpec,
    labels: LabelSet,
    classes: Sequence[str],
) -> Iterator[str]:
    """Yield which rows and classes of the sources ``rows_of`` are not trained on."""
    for rows in rows_of.values():
        if rows.without_label:
            total = len(rows) + rows.without_label
            yield (
                f"{rows.without_label:,} of {total:,} rows of {rows.path.name} have no label in the column "
                f"{spec.label_column!r} and are left out. {spec.config_key}.missing=error refuses such rows."
            )
    taken = [split for split in ("val", "test") if split not in rows_of and len(splits[split])]
    if taken and spec.path is None:
        numbers = " and ".join(f"{len(splits[split]):,} for {split}" for split in taken)
        reason = "the data set has no split" if spec.dataset else "no file is given"
        train = rows_of["train"]
        yield (
            f"of the {len(train):,} rows of {train.path.name}, {numbers} are taken (data.split) and "
            f"not trained on, because {reason} for them: {' '.join(map(spec.key_of, taken))}"
        )
    absent = [repr(name) for name in classes if name not in labels.names]
    if absent and spec.labels is None:
        yield f"classes without a training row, which the model will not predict: {listed(absent)}."


def _sources(spec: TaskSpec) -> tuple[dict[str, Source], list[str]]:
    """Return what to read for each split, and notes on splits of a data set that are not used."""
    if spec.dataset is None:
        return dict(spec.files), []
    sources: dict[str, Source] = {}
    notes = []
    for split, source in load_splits(spec.dataset).items():
        usual = split != "train" and split not in spec.dataset.splits  # many test splits of the hub have no labels
        if usual and spec.missing == "skip" and not source.is_labelled(spec.label_column):
            notes.append(
                f"no row of {source.path.name} has a label in the column {spec.label_column!r}: it is not used."
            )
        else:
            sources[split] = source
    return sources, notes


def _read(sources: Mapping[str, Source], spec: TaskSpec) -> dict[str, Examples]:
    examples: dict[str, Examples] = {}
    problems: list[Problem] = []
    for split, source in sources.items():
        try:
            examples[split] = read_examples(
                source,
                spec.text_column,
                spec.label_column,
                extra=spec.slices,
                missing=spec.missing,
                config_key=spec.config_key,
            )
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(dict.fromkeys(problems))
    return examples


def _completed(
    rows_of: Mapping[str, Examples], labels: LabelSet, spec: TaskSpec, origin: Source, seed: int
) -> dict[str, Examples]:
    """Return all three splits, those without rows of their own split off from the training rows."""
    shares = dict(zip(SPLITS, spec.fractions, strict=True))
    missing = [split for split in SPLITS if split not in rows_of and shares[split] > 0]
    source = rows_of["train"]
    splits = {split: rows_of.get(split, source.select([])) for split in SPLITS}
    if missing:
        wanted = ["train", *missing]
        total = sum(shares[split] for split in wanted)
        fractions = [shares[split] / total for split in wanted]
        others = _split_with(source, spec, origin)
        parts = _joint_split(source, labels, others, fractions, seed)
        if not all(map(len, parts)):
            raise DataError(_too_few_rows(source, labels, missing, spec, others))
        splits |= {split: source.select(part) for split, part in zip(wanted, parts, strict=True)}
    return splits


def _split_with(source: Examples, spec: TaskSpec, origin: Source) -> dict[str, Examples]:
    """Return the rows of all tasks that are split together with this one, by label column; nothing for it alone."""
    if not set(spec.split_with) - {spec.label_column}:
        return {}
    tables = {spec.label_column: source}
    for column in spec.split_with:
        try:
            tables.setdefault(column, read_examples(origin, spec.text_column, column, missing="skip"))
        except DataError as error:
            first = error.problems[0]
            found = f"the column {column!r}, which cannot be read ({first.place}: {first.found})"
            expected = f"label columns of {source.path.name}"
            raise DataError(Problem(f"{spec.config_key}{_SPLIT_WITH}", found, expected)) from None
    return tables


def _joint_split(
    source: Examples, labels: LabelSet, tables: Mapping[str, Examples], fractions: Sequence[float], seed: int
) -> list[IntArray]:
    """Return the row numbers of each part of ``source``, as one split of the rows of ``tables`` has them.

    The labels of different tasks are told apart there, so that each text counts for the rarest of all its labels.
    """
    if not tables:
        return stratified_split(source.keys, labels.ids(source), fractions, seed)
    keys: list[KeyArray] = []
    codes: list[IntArray] = []
    start = rows = known = 0
    for _, table in sorted(tables.items()):
        names = table.distinct_labels()
        keys.append(table.keys)
        codes.append(table.label_codes(names) + known)
        known += len(names)
        start = rows if table is source else start
        rows += len(table)
    parts = stratified_split(np.concatenate(keys), np.concatenate(codes), fractions, seed)
    return [part[(part >= start) & (part < start + len(source))] - start for part in parts]


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


def _too_few_rows(
    source: Examples, labels: LabelSet, missing: Sequence[str], spec: TaskSpec, others: Mapping[str, Examples]
) -> Problem:
    texts = len(np.unique(source.keys))
    found = f"{plural(len(source), 'row')} with {plural(texts, 'distinct text')} for {len(labels)} labels"
    least = len(labels) + len(missing)
    expected = f"at least {least} distinct texts: one per label to train on, and one each for {' and '.join(missing)}"
    own = "splits" if spec.dataset else "files"
    repair = f"add rows, or give {own} of their own: {' '.join(map(spec.key_of, missing))}"
    if others and texts >= least:
        found += f", too few of them for a split that suits {listed(sorted(others))} alike"
        repair += f"; or split it without the others: {spec.config_key}{_SPLIT_WITH}=[]"
    return Problem(str(source.path), found, expected, repair)
