"""From a task's configuration and labels to the description of its head, with the checks of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from mtl.base.errors import ConfigError, Problem
from mtl.base.label_tree import branches_by, separator_problems
from mtl.config.checks import PLACE
from mtl.config.fields import Config, MultiStageConfig
from mtl.data.tasks import TaskData
from mtl.model.head_specs import FirstStageSpec, MultiStageSpec, spec_problems


def multi_stage_spec(head: MultiStageConfig, labels: Sequence[str]) -> MultiStageSpec:
    """Return the description of a multi-stage head over the labels of its task."""
    tree = head.tree if head.separator is None else branches_by(head.separator, labels)
    return MultiStageSpec(
        kind="multi_stage",
        tree=tree or {},
        stage_kind=head.stage_kind,
        dropout=head.dropout,
        scale=head.scale,
        hidden=head.hidden,
        first_stage=None if head.first_stage is None else FirstStageSpec(**asdict(head.first_stage)),
    )


def check_stages(config: Config, tasks: Mapping[str, TaskData]) -> None:
    """Check the trees of multi-stage heads against the labels, as soon as those are known.

    Raises:
        ConfigError: Labels without a branch, branches with unknown labels, coarse classes that a borrowed head lacks.
    """
    labels = {name: task.labels.names for name, task in tasks.items()}
    problems: list[Problem] = []
    specs: dict[str, MultiStageSpec] = {}
    for name, head in config.heads.tasks.items():
        if not isinstance(head, MultiStageConfig):
            continue
        wrong: list[Problem] = []
        if head.separator is not None:
            wrong += separator_problems(f"{PLACE.format(name)}.separator", head.separator, name, labels[name])
        if not wrong:
            specs[name] = multi_stage_spec(head, labels[name])
        problems += wrong
    problems += spec_problems(PLACE, specs, labels)
    if problems:
        raise ConfigError(problems)
