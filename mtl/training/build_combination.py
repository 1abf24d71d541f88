"""Builds how the tasks' losses become one, and what measures whether their gradients agree."""

from __future__ import annotations

from collections.abc import Sequence

from mtl.base.errors import ConfigError, Problem
from mtl.config.combine import AGGREGATIONS
from mtl.config.fields import Config
from mtl.training.combination import Combination, DynamicWeightAverage, Uncertainty, Weighted
from mtl.training.famo import Famo
from mtl.training.gradient_aggregation import GradientAggregation, Weighting, torchjd_weighting
from mtl.training.gradient_watch import GradientWatch
from mtl.training.learning_rates import COMBINATION, ParameterGroup


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
