"""Builds the losses of the tasks and what evens out their classes: all that knows the classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mtl.config.fields import Config, TaskLossConfig
from mtl.data.oversampling import oversampled_rows
from mtl.data.tasks import TaskData
from mtl.training.class_weights import balanced_weights, effective_number_weights, logit_offsets
from mtl.training.losses import TaskLoss, TaskLosses

if TYPE_CHECKING:
    from numpy.typing import NDArray


def slots(config: Config, tasks: Mapping[str, TaskData]) -> dict[str, NDArray[np.int64]]:
    """Return for each task the row in each slot of a pass over its training rows.

    Args:
        config: The run's configuration.
        tasks: The data of each task.
    """
    return {
        name: oversampled_rows(
            task.labels.ids(task.train), config.data.tasks[name].oversample, task=name, seed=config.seed
        )
        for name, task in tasks.items()
    }


def class_counts(task: TaskData, slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how often rows of each class come in a pass over the training rows, int64, ``(C,)``."""
    return np.bincount(task.labels.ids(task.train)[slots], minlength=len(task.labels))


def class_weights(settings: TaskLossConfig, counts: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Return the weights of the classes in a task's loss, ``(C,)``, if it has any.

    Args:
        settings: The task's loss.
        counts: How often rows of each class come in a pass, int64, ``(C,)``: what is repeated is not weighted again.
    """
    if settings.weighting == "balanced":
        return balanced_weights(counts, settings.weighting_power)
    if settings.weighting == "effective_number":
        return effective_number_weights(counts, settings.beta)
    return None


def class_offsets(settings: TaskLossConfig, counts: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Return what is added to a task's logits in the loss, ``(C,)``, if anything is; see `class_weights`."""
    return logit_offsets(counts, settings.tau) if settings.weighting == "logit_adjustment" else None


def losses(config: Config, counts: Mapping[str, NDArray[np.int64]]) -> TaskLosses:
    """Return the losses of the tasks.

    Args:
        config: The run's configuration.
        counts: How often rows of each class come in a pass over the training rows of each task, int64, ``(C,)``.
    """
    tasks = {task: _loss(config.loss.of(task), each) for task, each in counts.items()}
    return TaskLosses(tasks, config.loss.consistency)


def _loss(settings: TaskLossConfig, counts: NDArray[np.int64]) -> TaskLoss:
    weights, offsets = class_weights(settings, counts), class_offsets(settings, counts)
    return TaskLoss(
        settings.kind,
        weights=None if weights is None else weights.tolist(),
        offsets=None if offsets is None else offsets.tolist(),
        gamma=settings.gamma,
        label_smoothing=settings.label_smoothing,
    )
