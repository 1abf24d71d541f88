"""The figures of each stage, added to those of the tasks whose heads have several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mtl.base.label_tree import LabelTree
from mtl.evaluation.scoring import Scored
from mtl.evaluation.stages import stage_reports
from mtl.model.saved import TaskHead, multi_stage_specs


def with_stages(
    scored: Mapping[str, Mapping[str, Scored]], heads: Mapping[str, TaskHead]
) -> dict[str, dict[str, Scored]]:
    """Return what was scored, with the figures of each stage where a head has several.

    Args:
        scored: Figures and predictions of each task and split.
        heads: The tasks' labels and heads.
    """
    trees = {name: LabelTree.over(heads[name].labels, spec.tree) for name, spec in multi_stage_specs(heads).items()}
    return {
        task: {split: _staged(each, trees[task]) if task in trees else each for split, each in splits.items()}
        for task, splits in scored.items()
    }


def _staged(scored: Scored, tree: LabelTree) -> Scored:
    place = {label: at for at, label in enumerate(tree.labels)}
    truth = np.array([place[label] for label in scored.predictions.labels], dtype=np.int64)
    stages = stage_reports(tree, scored.predictions.probabilities, truth)
    return replace(scored, report=replace(scored.report, stages=stages))
