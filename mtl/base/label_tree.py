"""The label tree of a multi-stage head, coarse classes over a task's labels, and its checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mtl.base.errors import Problem, did_you_mean, listed

Branches = Mapping[str, Sequence[str]]
"""For each coarse class its labels."""


@dataclass(frozen=True, slots=True)
class LabelTree:
    """A sound tree over the ``C`` labels of a task, with ``K`` branches.

    Attributes:
        labels: The labels, in the order of the logits.
        branches: For each coarse class its labels, in the order of ``labels``.
    """

    labels: tuple[str, ...]
    branches: dict[str, tuple[str, ...]]

    @classmethod
    def over(cls, labels: Sequence[str], branches: Branches) -> LabelTree:
        """Return the tree of ``branches``, in which each label occurs exactly once (see `tree_problems`)."""
        members = {name: set(leaves) for name, leaves in branches.items()}
        in_order = {name: tuple(label for label in labels if label in leaves) for name, leaves in members.items()}
        return cls(tuple(labels), in_order)

    @property
    def branch_of(self) -> list[int]:
        """For each label the place of its branch, ``C`` numbers from 0 to ``K - 1``."""
        place = {leaf: at for at, leaves in enumerate(self.branches.values()) for leaf in leaves}
        return [place[label] for label in self.labels]

    @property
    def divided(self) -> dict[str, list[int]]:
        """The branches that a second stage divides, those with two labels or more: the class ids of their labels."""
        place = {label: at for at, label in enumerate(self.labels)}
        return {name: [place[leaf] for leaf in leaves] for name, leaves in self.branches.items() if len(leaves) > 1}


def branches_by(separator: str, labels: Sequence[str]) -> dict[str, list[str]]:
    """Return the branches given by label names: the part before the separator, stripped, is the coarse class.

    A label without the separator is a branch of its own: ``neutral`` beside ``negative: late flight``.
    """
    branches: dict[str, list[str]] = {}
    for label in labels:
        branches.setdefault(label.partition(separator)[0].strip(), []).append(label)
    return branches


def tree_problems(place: str, branches: Branches) -> Iterator[Problem]:
    """Yield the problems of a tree by itself, whatever the labels of its task; ``place`` is the key of the tree."""
    few = f"{len(branches)} branch{'es' * (len(branches) != 1)}"
    yield from _shape_problems(place, branches, few, "a single label in each branch, so that no second stage is left")
    for name, leaves in branches.items():
        if not name.strip():
            yield Problem(place, f"a branch named {name!r}", "a name for each coarse class")
        elif not leaves:
            yield Problem(f"{place}.{name}", "no label", "one label or more", "add its labels, or take it out")
    counts = Counter(leaf for leaves in branches.values() for leaf in leaves)
    for label, count in counts.items():
        if count > 1:
            where = [name for name, leaves in branches.items() for leaf in leaves if leaf == label]
            yield Problem(place, f"the label {label!r} in {' and '.join(where)}", "each label once, in one branch")
    yield from _ambiguous(place, branches)


def _shape_problems(place: str, branches: Branches, few: str, single: str) -> Iterator[Problem]:
    """Yield a problem if there are fewer than two branches, or if each has a single label, in these words."""
    if len(branches) < 2:
        found = f"{few}: {listed(branches)}" if branches else few
        yield Problem(place, found, "at least two branches, the coarse classes")
    elif all(len(leaves) == 1 for leaves in branches.values()):
        yield Problem(place, single, "a branch with two labels or more", "choose a head of kind linear or mlp")


def _ambiguous(place: str, branches: Branches) -> Iterator[Problem]:
    for name in branches:
        for other, leaves in branches.items():
            if other != name and name in leaves:
                found = f"the branch {name!r}, which is also a label of the branch {other!r}"
                yield Problem(place, found, "names of branches that mean one thing", "rename the branch")


def label_problems(place: str, branches: Branches, task: str, labels: Sequence[str]) -> Iterator[Problem]:
    """Yield the labels of a tree that its task does not have, and those of the task without a branch."""
    for name, leaves in branches.items():
        for label in leaves:
            if label not in labels:
                found, hint = f"the label {label!r}, which {task} does not have", did_you_mean(label, labels)
                yield Problem(f"{place}.{name}", found, listed(labels), hint)
    in_tree = {leaf for leaves in branches.values() for leaf in leaves}
    missing = [label for label in labels if label not in in_tree]
    if missing:
        found = f"no branch for the label{'s' * (len(missing) > 1)} {listed(map(repr, missing))}"
        expected = f"each label of {task} in one branch"
        yield Problem(place, found, expected, f"add {'them' if len(missing) > 1 else 'it'} to {listed(branches)}")


def separator_problems(place: str, separator: str, task: str, labels: Sequence[str]) -> Iterator[Problem]:
    """Yield the problems of the tree that a separator makes of a task's labels, see `branches_by`."""
    if not any(separator in label for label in labels):
        found, expected = f"{separator!r}, which no label of {task} has", f"what divides a label: {listed(labels)}"
        yield Problem(place, found, expected, f"give {place.removesuffix('separator')}tree={{coarse class: [labels]}}")
        return
    branches = branches_by(separator, labels)
    for label in branches.get("", ()):
        yield Problem(place, f"the label {label!r}, with nothing before {separator!r}", "the name of a coarse class")
    few = f"{separator!r}, by which all labels of {task} are in one branch"
    single = f"{separator!r}, by which each branch has a single label: {listed(branches)}"
    yield from _shape_problems(place, branches, few, single)
    yield from _ambiguous(place, branches)


def loan_problems(
    place: str, branches: Sequence[str], names: Mapping[str, str], lender: str, labels: Sequence[str]
) -> Iterator[Problem]:
    """Yield the problems of the head of the task ``lender``, which has ``labels``, as the first stage.

    ``place`` is the key of the first stage, ``branches`` are the coarse classes, and ``names`` the lender's labels for
    those that are called otherwise there.
    """
    for name, label in names.items():
        if name not in branches:
            yield Problem(f"{place}.map.{name}", f"the branch {name!r}", listed(branches), did_you_mean(name, branches))
        elif label not in labels:
            found, hint = f"the label {label!r}, which {lender} does not have", did_you_mean(label, labels)
            yield Problem(f"{place}.map.{name}", found, listed(labels), hint)
    lacking = [name for name in branches if name not in names and name not in labels]
    if lacking:
        found = f"{listed(map(repr, lacking))}, for which the head of {lender} has no class"
        repair = f"name it with {place}.map={{{lacking[0]}: …}}, or leave first_stage out for one of its own"
        yield Problem(place, found, f"coarse classes among the labels of {lender}: {listed(labels)}", repair)
    users: dict[str, list[str]] = {}
    for name in branches:
        users.setdefault(names.get(name, name), []).append(name)
    for label, taken in users.items():
        if len(taken) > 1:
            found = f"the label {label!r} of {lender} for {' and '.join(taken)}"
            yield Problem(f"{place}.map", found, "another label for each coarse class")


def circle_problems(place: str, lenders: Mapping[str, str]) -> list[Problem]:
    """Return a problem for each cycle of tasks that borrow their first stage from each other, or from themselves.

    ``place`` is the key of a task's head, with ``{}`` for the task; ``lenders`` has for each task that borrows the one
    that it borrows from.
    """
    problems: list[Problem] = []
    known: set[str] = set()
    for task in lenders:
        path = [task]
        while path[-1] in lenders and path[-1] not in known and path[-1] not in path[:-1]:
            path.append(lenders[path[-1]])
        if path[-1] in path[:-1]:
            circle = path[path.index(path[-1]) :]  # ["a", "b", "a"]
            found = f"{circle[0]!r}, the task itself" if len(circle) == 2 else f"a circle: {' → '.join(circle)}"
            expected = "another task, whose head does not need this one"
            problems.append(Problem(f"{place.format(circle[0])}.first_stage.task", found, expected))
        known.update(path)
    return problems
