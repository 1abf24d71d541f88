"""Small networks to train and look into: the tiny encoder with heads, and batches that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mtl.data.batch import Batch
from mtl.model.encoder import Encoder
from mtl.model.heads import Head, HeadKind
from mtl.model.network import MultiTaskNetwork

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TASKS = {"topic": 3, "mood": 2}
"""The number of classes of each task."""


def network(
    folder: Path, tasks: Mapping[str, int] | None = None, *, kind: HeadKind = "linear", dropout: float = 0.1
) -> MultiTaskNetwork:
    """Return the encoder in ``folder`` with heads, the same weights each time."""
    encoder = Encoder.from_folder(folder)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        heads = {
            task: Head(kind, encoder.hidden_size, classes, dropout=dropout)
            for task, classes in (tasks or TASKS).items()
        }
    return MultiTaskNetwork(encoder, heads)


def batch(tasks: Mapping[str, int] | None = None, rows: int = 4, seed: int = 0) -> Batch:
    """Return ``rows`` rows of random tokens for each task, of 3 to 8 tokens."""
    random = torch.Generator().manual_seed(seed)
    classes = dict(tasks or TASKS)
    count = rows * len(classes)
    lengths = torch.randint(3, 9, (count,), generator=random)
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.randint(5, 200, mask.shape, generator=random).masked_fill(~mask, 1)
    return Batch(
        ids=ids,
        mask=mask,
        slices={task: slice(at * rows, (at + 1) * rows) for at, task in enumerate(classes)},
        labels={task: torch.randint(number, (rows,), generator=random) for task, number in classes.items()},
        indices={task: torch.arange(rows) for task in classes},
    )
