"""Scoring: the logits of a network for every row of the tasks' splits, and the reports and predictions they give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mtl.data.datamodule import EncodedSplit
from mtl.data.examples import Examples
from mtl.encoding import Encoding, encode_table
from mtl.evaluation.metrics import task_report
from mtl.evaluation.predictions import Predictions
from mtl.evaluation.task_report import TaskReport
from mtl.model.multitask import MultiTaskNetwork

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Scored:
    """What a network makes of one task's split: its figures and its predictions row by row."""

    report: TaskReport
    predictions: Predictions


def score(
    network: MultiTaskNetwork,
    task: str,
    labels: tuple[str, ...],
    split: EncodedSplit,
    examples: Examples,
    how: Encoding,
    embeddings: NDArray[np.float32] | None = None,
) -> Scored:
    """Predict all rows of a split and count.

    Args:
        network: Encoder and heads, on their device.
        task: The task.
        labels: The ``C`` labels, in the order of the logits.
        split: Token ids and class ids of the rows.
        examples: The same rows as text.
        how: Batches, precision, progress bar.
        embeddings: Those of the rows, ``(N, H)``, if they are known.
    """
    if embeddings is None:
        embeddings = encode_table(network.encoder, split.table, how)
    probabilities = head_probabilities(network, task, embeddings)
    predicted = probabilities.argmax(axis=1) if len(probabilities) else np.empty(0, dtype=np.int64)
    confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(confusion, (split.labels, predicted), 1)
    names = np.array(labels, dtype=object)
    predictions = Predictions(
        classes=list(labels),
        texts=examples.texts,
        labels=names[split.labels].tolist(),
        predicted=names[predicted].tolist(),
        probabilities=probabilities.astype(np.float64),
        sources=examples.sources(),
    )
    return Scored(task_report(torch.from_numpy(confusion), labels), predictions)


def head_probabilities(network: MultiTaskNetwork, task: str, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities ``(N, C)`` that a task's head gives embeddings ``(N, H)``."""
    head = network.head(task)
    inputs = torch.from_numpy(embeddings).to(next(head.parameters()).device)
    mode = head.training
    with torch.inference_mode():
        found: NDArray[np.float32] = torch.softmax(head.eval()(inputs).float(), dim=-1).cpu().numpy()
    head.train(mode)
    return found
