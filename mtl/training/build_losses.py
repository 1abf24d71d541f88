"""Build the tasks' losses, their class weights, and how they are combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mtl.base.errors import ConfigError, Problem
from mtl.config.combine import AGGREGATIONS
from mtl.config.fields import Config, TaskLossConfig
from mtl.data.splits import oversampled_rows
from mtl.data.tasks import TaskData
from mtl.training.combination import Combination, DynamicWeightAverage, Famo, Uncertainty, Weighted
from mtl.training.gradient_aggregation import GradientAggregation, Weighting, torchjd_weighting
from mtl.training.gradient_watch import GradientWatch
from mtl.training.learning_rates import COMBINATION, ParameterGroup
from mtl.training.losses import TaskLoss, TaskLosses, balanced_weights, effective_number_weights, logit_offsets

if TYPE_CHECKING:
    from numpy.typing import NDArray


def combination(config: Config, tasks: Sequence[str]) -> Combination:
    """Return how the tasks' losses become one.

    Args:
        config: The run's configuration.
        tasks: The tasks that learn.

    Raises:
        ConfigError: The package of a method is not installed.
    """
    loss = config.loss
    if loss.combine in AGGREGATIONS:
        return GradientAggregation(tasks, _weighting(loss.combine))
    if loss.combine == "weighted":
        return Weighted(tasks, loss.weights)
    if loss.combine == "uncertainty":
        return Uncertainty(tasks)
    if loss.combine == "dwa":
        return DynamicWeightAverage(tasks, temperature=loss.dwa.temperature, window=loss.dwa.window)
    if loss.combine == "famo":
        return Famo(tasks, rate=loss.famo.rate, decay=loss.famo.decay)
    return Combination(tasks)


def check_installed(config: Config) -> None:
    """Refuse a combination whose package is missing, before anything is computed.

    Raises:
        ConfigError: It is.
    """
    if config.loss.combine in AGGREGATIONS:
        _weighting(config.loss.combine)


def _weighting(name: str) -> Weighting:
    try:
        return torchjd_weighting(name)
    except ImportError as error:
        found = f"{name}, which needs TorchJD: {str(error).partition('. ')[0]}"
        expected = "sum, weighted, uncertainty, dwa or famo, or TorchJD"
        raise ConfigError(Problem("loss.combine", found, expected, "pip install 'mtl[gradients]'")) from None


def combination_groups(config: Config, how: Combination) -> list[ParameterGroup]:
    """Return the parameter group of what a combination learns together with the network; none where it learns nothing.

    Args:
        config: The run's configuration.
        how: The combination.
    """
    parameters = {f"{COMBINATION}.{name}": each for name, each in how.named_parameters()}
    if not parameters:
        return []
    return [ParameterGroup(COMBINATION, ("log variances",), config.loss.uncertainty.rate, 0.0, parameters)]


def gradient_watch(config: Config) -> GradientWatch | None:
    """Return what measures the tasks' gradients, if the run wants that."""
    wanted = config.callbacks.gradients
    return None if wanted is None else GradientWatch(wanted.every_n_steps)


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
