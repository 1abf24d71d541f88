"""Checks across the files of a task: labels that fit, and no text in two splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from unicodedata import category, normalize

import numpy as np
from numpy.typing import NDArray

from mtl.base.errors import Problem, listed
from mtl.data.examples import Examples
from mtl.data.labels import LabelSet
from mtl.data.problems import ProblemLog, plural

_MOST_SHOWN = 3


def label_problems(rows_of: Mapping[str, Examples], declared: tuple[str, ...] | None, config_key: str) -> list[Problem]:
    """Return what is wrong with the labels of a task, file by file.

    They are ``declared`` by the configuration, or ``None`` and left to the training rows.
    """
    train = rows_of["train"]
    setting = f"{config_key}.labels"
    logs = {split: ProblemLog(examples.path) for split, examples in rows_of.items()}
    if declared is None:
        labels = LabelSet.found_in(train)
        expected = f"a label that training rows have: {listed(labels)}"
        repair = f"correct it, or add rows with it to {train.path}"
        if len(labels) == 1:
            found = f"a single label, {labels.names[0]!r}, in all of {plural(len(train), 'row')}"
            column = f"add rows with other labels, or name another column with {config_key}.label_column="
            logs["train"].add(None, found, "at least two labels to tell apart", column)
    else:
        labels = LabelSet(declared)
        expected = f"one of {setting}: {listed(labels)}"
        repair = f"correct it, or add it to {setting}"
        for name in _absent(train, labels):
            again = f"add rows with it, or take it out of {setting}"
            logs["train"].add(None, f"no row with the label {name!r}", f"training rows for each of {setting}", again)
    for split, examples in rows_of.items():
        labels.note_unknown(examples, logs[split], expected, repair)
    return [problem for log in logs.values() for problem in log.problems()]


def task_warnings(name: str, splits: Mapping[str, Examples], labels: LabelSet) -> list[str]:
    """Return what is allowed but probably not meant in a task's splits, a text each."""
    warnings = [
        *_alike_labels(labels),
        *_contradictions(splits["train"], labels),
        *(text for first, second in combinations(splits, 2) for text in _shared_texts(first, second, splits)),
        *(text for split in list(splits)[1:] for text in _unmeasured(split, splits[split], labels)),
    ]
    return [f"{name}: {text}" for text in warnings]


def _alike_labels(labels: LabelSet) -> Iterator[str]:
    alike: dict[str, list[str]] = {}
    for name in labels:
        alike.setdefault(_as_read(name), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            yield (
                f"the labels {listed(map(ascii, names))} differ only in case, white space or Unicode form. "
                "Write them alike if they mean the same."
            )


def _as_read(label: str) -> str:
    """Return a label without what a reader does not see: case, white space, forms of a character, invisible ones."""
    visible = (char for char in normalize("NFKC", label) if category(char) != "Cf")
    return " ".join("".join(visible).casefold().split())


def _contradictions(train: Examples, labels: LabelSet) -> Iterator[str]:
    keys, codes = train.keys, labels.ids(train)
    order = np.lexsort((codes, keys))
    same_text = np.diff(keys[order]) == 0
    other_label = np.diff(codes[order]) != 0
    pairs = np.flatnonzero(same_text & other_label)
    pairs = pairs[np.unique(keys[order[pairs]], return_index=True)[1]]
    if not pairs.size:
        return
    rows = np.sort(np.stack((order[pairs], order[pairs + 1]), axis=1), axis=1)
    rows = rows[np.argsort(rows[:, 0])]
    shown = [
        " and ".join(f"{train.source(row)} {labels.names[codes[row]]!r}" for row in pair)
        for pair in rows[:_MOST_SHOWN].tolist()
    ]
    yield (
        f"{plural(len(rows), 'text')} in train with different labels (case and white space aside): "
        f"{_with_rest(shown, len(rows))}. Decide for one label each, or remove them."
    )


def _shared_texts(first: str, second: str, splits: Mapping[str, Examples]) -> Iterator[str]:
    here, there = splits[second], splits[first]
    shared = np.flatnonzero(np.isin(here.keys, there.keys))
    if not shared.size:
        return
    shown = [
        f"{here.source(row)} as {there.source(int(np.argmax(there.keys == here.keys[row])))}"
        for row in shared[:_MOST_SHOWN].tolist()
    ]
    yield (
        f"{len(shared)} of {plural(len(here), 'row')} in {second} have a text that {first} has too (case and white "
        f"space aside): {_with_rest(shown, len(shared))}. The scores on {second} will be too good: remove these rows "
        "from one of the two."
    )


def shared_between_tasks(tasks: Mapping[str, Mapping[str, Examples]]) -> dict[str, list[str]]:
    """Return for each task how many of the rows it is measured by have a text that another task trains on."""
    trained = {name: np.unique(splits["train"].keys) for name, splits in tasks.items()}
    shared: dict[str, list[str]] = {name: [] for name in tasks}
    for name, splits in tasks.items():
        for split in ("val", "test"):
            others = {other: keys for other, keys in trained.items() if other != name}
            in_other = {other: np.isin(splits[split].keys, keys) for other, keys in others.items()}
            lenders = [other for other, where in in_other.items() if where.any()]
            if lenders:
                rows = np.logical_or.reduce([in_other[other] for other in lenders])
                shared[name].append(_shared_with(name, split, splits[split], rows, lenders))
    return shared


def _shared_with(name: str, split: str, examples: Examples, rows: NDArray[np.bool_], lenders: list[str]) -> str:
    shown = [examples.source(row) for row in np.flatnonzero(rows)[:_MOST_SHOWN].tolist()]
    count = int(rows.sum())
    who = f"{listed(lenders)} {'trains' if len(lenders) == 1 else 'train'} on"
    return (
        f"{name}: {count:,} of {plural(len(examples), 'row')} in {split} have a text that {who} "
        f"(case and white space aside): {_with_rest(shown, count)}. Where the encoder is trained, the scores on "
        f"{split} will be too good: give the same texts the same split, in files for train, val and test, or in one "
        "file with a label column for each task, which is split for all of them alike."
    )


def _unmeasured(split: str, examples: Examples, labels: LabelSet) -> Iterator[str]:
    absent = [repr(name) for name in _absent(examples, labels)]
    if absent and len(examples):
        yield f"no row in {split} with the label{'s' * (len(absent) > 1)} {listed(absent)}: nothing is measured there."


def _absent(examples: Examples, labels: LabelSet) -> list[str]:
    """Return the labels that no row has."""
    present = set(examples.distinct_labels())
    return [name for name in labels if name not in present]


def _with_rest(shown: list[str], count: int) -> str:
    rest = count - len(shown)
    return "; ".join(shown) + (f" (+{rest} more)" if rest > 0 else "")
