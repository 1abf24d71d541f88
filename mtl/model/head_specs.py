"""The description of a multi-stage head in plain values, its checks, and the head built from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Literal

from pydantic.dataclasses import dataclass
from torch import nn

from mtl.base import schema
from mtl.base.errors import Problem, did_you_mean, listed
from mtl.base.label_tree import LabelTree, circle_problems, label_problems, loan_problems, tree_problems
from mtl.base.schema import Positive, Share, Width
from mtl.model.heads import BorrowedStage, Head, HeadKind, MultiStageHead


@dataclass(config=schema.STRICT)
class FirstStageSpec:
    """The head of another task as the first stage."""

    task: str
    map: dict[str, str] = field(default_factory=dict)
    """What coarse classes are called among its labels; those that are not named are called the same."""


@dataclass(config=schema.STRICT)
class MultiStageSpec:
    """How a head of two stages is built."""

    kind: Literal["multi_stage"]
    tree: dict[str, list[str]]
    """For each coarse class its labels."""
    stage_kind: HeadKind
    dropout: Share = 0.0
    scale: Positive = 1.0
    hidden: Width | None = None
    """Units of the hidden layer of a stage of kind ``mlp``; ``None``: the embedding's size."""
    first_stage: FirstStageSpec | None = None
    """The head of another task in place of a first stage of its own."""


def spec_problems(
    place: str, specs: Mapping[str, MultiStageSpec], labels: Mapping[str, Sequence[str]]
) -> list[Problem]:
    """Return what is wrong with the multi-stage heads of a model, all of it.

    ``place`` says where a task's head is described, with ``{}`` for the task: ``heads.tasks.{}``.
    """
    problems: list[Problem] = []
    for task, spec in specs.items():
        here = place.format(task)
        problems += tree_problems(f"{here}.tree", spec.tree)
        problems += label_problems(f"{here}.tree", spec.tree, task, labels[task])
        problems += _lender_problems(f"{here}.first_stage", task, spec, labels)
    lenders = {task: spec.first_stage.task for task, spec in specs.items() if spec.first_stage}
    return problems + circle_problems(place, lenders)


def _lender_problems(
    place: str, task: str, spec: MultiStageSpec, labels: Mapping[str, Sequence[str]]
) -> Iterator[Problem]:
    first = spec.first_stage
    if first is None or first.task == task:
        return
    if first.task in labels:
        yield from loan_problems(place, list(spec.tree), first.map, first.task, labels[first.task])
    else:
        found, others = f"the task {first.task!r}", [name for name in labels if name != task]
        yield Problem(f"{place}.task", found, listed(others) or "another task", did_you_mean(first.task, others))


def build_multi_stage(
    spec: MultiStageSpec, labels: Sequence[str], in_features: int, lender: tuple[nn.Module, Sequence[str]] | None = None
) -> MultiStageHead:
    """Return a fresh multi-stage head for ``C`` labels, from a description without problems (see `spec_problems`).

    ``lender`` is the head of ``spec.first_stage.task`` with its labels, where the description names one.
    """
    tree = LabelTree.over(labels, spec.tree)

    def stage(outputs: int) -> nn.Module:
        return Head(spec.stage_kind, in_features, outputs, spec.dropout, spec.hidden, spec.scale)

    first: nn.Module | BorrowedStage
    if spec.first_stage is None or lender is None:
        first = stage(len(tree.branches))
    else:
        head, names = lender
        own = [spec.first_stage.map.get(branch, branch) for branch in tree.branches]
        first = BorrowedStage(head, [names.index(name) for name in own])
    return MultiStageHead(tree, first, stage(sum(map(len, tree.divided.values()))))
