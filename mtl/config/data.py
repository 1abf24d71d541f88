"""The sections for data: the tasks with their files, how rows become batches, and the pairs for retention."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from mtl.base import schema
from mtl.base.schema import MOST, Count, Fraction, Name


@dataclass(config=schema.STRICT)
class TaskConfig:
    """The files and columns of one task."""

    train: Name | None = None
    val: Name | None = None
    test: Name | None = None
    path: Name | None = None
    """One file that is split by `DataConfig.split`, instead of ``train``."""
    text_column: Name = "text"
    label_column: Name = "label"
    labels: list[Name] | None = None
    """The labels in the order of the head's outputs; ``null``: those found in training, sorted."""
    oversample: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How far rows of rare classes are repeated in training: 0 not at all, 1 until all classes are equally frequent."""
    slices: list[Name] = field(default_factory=list)
    """Further columns of the files: the error analysis gives the figures for each of their values."""
    missing: Literal["skip", "error"] = "skip"
    """What to do about rows without a label: leave them out, or refuse the file."""
    split_with: list[Name] | None = None
    """Label columns of the tasks that are split off the same file, see `mtl.data.tasks.TaskSpec`; ``null``: all of
    them, ``[]``: the task has a split of its own."""


@dataclass(config=schema.STRICT)
class DataConfig:
    """The tasks, and how their rows become batches."""

    tasks: dict[str, TaskConfig]
    split: list[Fraction]
    """Shares of train, val and test when a file has to be split."""
    interleave: Literal["paired", "round_robin", "proportional", "temperature"]
    temperature: Annotated[float, Field(gt=0)]
    """``T`` of temperature sampling: a task's share is proportional to ``rows ** (1 / T)``."""
    batch_size: Count
    """Rows per task, step and process."""
    eval_batch_size: Count
    max_tokens: Annotated[int, Field(ge=16, le=MOST)]
    """Most padded tokens of one task's batch."""
    train_share: Annotated[float, Field(gt=0, le=1)]
    """Share of each task's training rows that is used, see `mtl.data.tasks.TaskSpec`."""
    most_batches: Count | None = None
    """Batches of rows of each split and task, a sample by the seed, to see whether everything runs; ``null``: all,
    as runs of earlier versions have it."""


@dataclass(config=schema.STRICT)
class RetentionConfig:
    """Sentence pairs that tell how much of its general ability the encoder keeps."""

    path: Name | None
    """A file of pairs; ``null``: not measured."""
    first_column: Name
    second_column: Name
    score_column: Name
    """How similar the two are, a number; only the order of the numbers counts."""
