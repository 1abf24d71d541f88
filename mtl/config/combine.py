"""The part of the schema for combining the tasks' losses: the keys of each method and what each requires."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass

from mtl.base import schema
from mtl.base.errors import Problem
from mtl.base.schema import Count, Rate

Aggregation = Literal["upgrad", "pcgrad", "mgda", "aligned_mtl"]
"""The ways that combine gradients in place of losses, by TorchJD."""
Combine = Literal["sum", "weighted", "uncertainty", "dwa", "famo", "upgrad", "pcgrad", "mgda", "aligned_mtl"]
AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)


@dataclass(config=schema.STRICT)
class UncertaintyConfig:
    """``uncertainty``: each task's log variance is learned."""

    rate: Rate
    """Learning rate of the log variances, which follows the schedule of the others."""


@dataclass(config=schema.STRICT)
class DwaConfig:
    """``dwa``: dynamic weight average."""

    temperature: Annotated[float, Field(gt=0)]
    """The higher, the more alike the weights."""
    window: Count | None
    """Batches over which losses are averaged before weights change; ``null``: an epoch."""


@dataclass(config=schema.STRICT)
class FamoConfig:
    """``famo``: fast adaptive multitask optimization."""

    rate: Rate
    """Learning rate of the weights' logits."""
    decay: Annotated[float, Field(ge=0)]
    """What draws the logits back to equal weights."""


@dataclass(config=schema.STRICT)
class GradientsConfig:
    """How often the tasks' gradients are looked at."""

    every_n_steps: Count


def combine_checks(values: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with ``loss.combine`` and the keys beside it.

    Args:
        values: A composed configuration as plain values, which may be wrong anywhere.
    """
    if _is_alone(values):
        return
    loss = _section(values, "loss")
    combine, weights = loss.get("combine"), loss.get("weights")
    if combine in get_args(Combine) and combine != "weighted" and isinstance(weights, Mapping) and weights:
        given = ", ".join(f"{task}: {weight}" for task, weight in weights.items())
        found = f"{given} beside loss.combine={combine}, where they mean nothing"
        yield Problem("loss.weights", found, "loss.combine=weighted", "give loss.combine=weighted")
    if combine in (*AGGREGATIONS, "famo"):
        yield from _needs_all_tasks(values, str(combine))
    if combine in AGGREGATIONS:
        yield from _needs_one_backward(values, str(combine))


def _needs_all_tasks(values: Mapping[str, Any], combine: str) -> Iterator[Problem]:
    """Refuse steps of one task, in which there is nothing to combine."""
    mode = _section(values, "data").get("interleave")
    if mode in ("round_robin", "proportional", "temperature"):
        found = f"{mode} beside loss.combine={combine}: a step has rows of one task, and nothing to combine"
        yield Problem("data.interleave", found, "paired", "give data.interleave=paired, or loss.combine=sum")


def _needs_one_backward(values: Mapping[str, Any], combine: str) -> Iterator[Problem]:
    """Refuse what the gradients of whole steps do not go with."""
    beside = f"beside loss.combine={combine}"
    trainer = _section(values, "trainer")
    batches = trainer.get("accumulate_grad_batches")
    if isinstance(batches, int) and batches > 1:
        found = f"{batches} {beside}, which combines the gradients of whole steps"
        repair = "give trainer.accumulate_grad_batches=1 and a larger data.batch_size"
        yield Problem("trainer.accumulate_grad_batches", found, "1", repair)
    if trainer.get("precision") == "16-mixed":
        found = f"16-mixed {beside}, whose products of gradients overflow there"
        yield Problem("trainer.precision", found, "auto, 32-true or bf16-mixed", "give trainer.precision=auto")
    if _section(values, "freeze").get("backbone") == "all":
        found = f"all {beside}: nothing that the tasks share learns, so there are no gradients to combine"
        yield Problem("freeze.backbone", found, "an encoder that learns, or loss.combine=sum", "give loss.combine=sum")


def _is_alone(values: Mapping[str, Any]) -> bool:
    """Whether there is one task, for which every combination is its loss."""
    return values.get("task") is not None and len(_section(_section(values, "data"), "tasks")) == 1


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if isinstance(found, Mapping) else {}
